"""MLflow tracking and the records of runs."""
