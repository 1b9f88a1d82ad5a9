"""What each form is told: a config a format."""
