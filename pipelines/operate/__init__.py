"""Servers and worker on this machine: started, watched, stopped and examined."""
