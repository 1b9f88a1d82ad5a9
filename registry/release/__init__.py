"""The model registry: versions, gates, promotion and pull."""
