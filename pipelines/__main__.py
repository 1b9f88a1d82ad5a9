"""`python -m attar.pipelines` is `attar`."""

from attar.pipelines.cli.main import main

main()
