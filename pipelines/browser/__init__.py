"""A released graph in a web browser: the page, what it runs on, and the server that gives them out."""
