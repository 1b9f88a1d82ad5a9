"""What lasts: artifact handles, the content-addressed store, lineage, gates, MLflow tracking and the model registry."""
