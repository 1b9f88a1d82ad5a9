"""How much a token, a row or a step counts."""
