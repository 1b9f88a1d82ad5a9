"""What an objective aims at: distributions made of teacher, past, labels and anchor."""
