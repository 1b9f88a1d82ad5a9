"""A recipe's run as a Prefect flow."""
