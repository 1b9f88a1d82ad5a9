"""Who teaches, and what students draw."""
