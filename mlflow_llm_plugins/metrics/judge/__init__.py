"""A language model as the judge of answers, whose verdict is read from the probabilities of the options.

    question.py       what a backend is asked about one row, and what it answers
    backends/         who is asked: a model in this process, a server, a function
    llm_judge.py      the metric, made from criteria, rubric and scale; ready_made.py has some for common questions
    run.py            one evaluation: rows, control rows and content-free rows in, scores out

To ask somebody else, write a backend; everything else stays as it is.
"""
