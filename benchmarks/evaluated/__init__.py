"""What `benchmarks.evaluation` measures, how, and how it is shown.

`child` performs one `job` in a process of its own, by the tables `EVALUATORS` and `JUDGES`; `rows` makes medians and
ratios of many.
"""
