"""Deployments on this machine: each a supervisor process that runs `mlflow models serve`.

Nothing here imports MLflow before a command needs it, and the supervisors never do.
"""
