"""Write a model in a form that a runtime reads, a room a format."""
