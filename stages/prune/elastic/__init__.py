"""Take a sub-network out of an elastic model."""
