"""The original model rewrites answers; verifiers decide which rewrite is kept."""
