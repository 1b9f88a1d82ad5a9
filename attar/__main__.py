"""`python -m attar` is `attar`."""

from attar.pipelines.cli.main import main

main()
