"""Deployments of models: MLflow's client for a target, and what runs the servers. MLflow loads `plugin`."""
