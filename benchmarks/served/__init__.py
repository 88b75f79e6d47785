"""What the servers' benchmark asks, and what it makes of the answers: loads, rows, tables, plots, an MLflow run."""
