"""How models of other subjects than causal text are trained: what is refused, and how a training of theirs is put together."""
