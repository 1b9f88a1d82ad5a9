"""What a run shows: tables, charts and one page."""
