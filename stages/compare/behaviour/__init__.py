"""Check that a student behaves as its original: flips, behaviour by behaviour."""
