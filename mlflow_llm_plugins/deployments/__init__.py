"""Deployments of models: MLflow's client for a target, and what runs the servers. MLflow loads `plugin`.

`client` speaks MLflow's language and knows no processes; `local/` is where servers run. Another place to run them is a
package beside `local/` with what `client` calls on `LocalBackend`, chosen by the scheme of the target's URI, and an
entry point in setup.py.
"""
