"""One verb a file: each stage turns a config and input artifacts into one output artifact. `contract.py` says what a stage is."""
