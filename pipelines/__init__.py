"""The DAG: recipes, plans, the Prefect flow (the only home of prefect), the report and the command line."""
