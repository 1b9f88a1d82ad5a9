"""What a person triggers or schedules in Prefect's UI: one flow a file."""
