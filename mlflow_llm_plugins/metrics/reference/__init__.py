"""Metrics against a reference: equality, overlap of words, ROUGE, BLEU, chrF, edits, and any metric of `evaluate`.

A target may be a text or, where a question has several right answers, a list of texts.
"""
