"""How models of other subjects than causal text are trained: what is refused, how a training is put together."""
