"""Delta releases: bring a newer version over an older copy by moving what differs."""
