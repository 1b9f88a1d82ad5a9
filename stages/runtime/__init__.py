"""How a stage runs: progress, devices, processes that end, and guards around code of others."""
