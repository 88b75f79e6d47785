"""Log-probabilities of given tokens, beside generation and on the same weights."""
