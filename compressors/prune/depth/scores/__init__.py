"""How removable blocks are: one metric a file, listed in `compressors/prune/depth/metrics.py`."""
