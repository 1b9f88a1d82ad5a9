"""`python -m attar` is `attar`."""

from pipelines.cli import main

main()
