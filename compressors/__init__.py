"""The science, pure torch: no files, no config models, no orchestration, no logging back-ends.

Dims in jaxtyping signatures: B batch, T tokens of the input, S tokens so far (cache and input), V vocabulary, D hidden size,
L decoder blocks, K recorded teacher candidates, N flat list of tokens.
"""
