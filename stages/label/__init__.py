"""Models answer, judge, revise and choose training answers."""
