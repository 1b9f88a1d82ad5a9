"""The facts of each kind of artifact."""
