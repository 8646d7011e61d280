"""The small scripts behind the Makefile: run, normalise, release, present."""
