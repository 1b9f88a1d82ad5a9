"""How models of other subjects are trained, and vectors before a prompt: what is refused, how it is put together."""
