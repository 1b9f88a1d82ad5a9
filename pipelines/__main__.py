"""`python -m pipelines` is `attar`."""

from pipelines.cli import main

main()
