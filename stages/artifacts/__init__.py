"""Folders on disk, as stages read and write them."""
