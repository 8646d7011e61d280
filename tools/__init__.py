"""The small scripts behind the Makefile: run, normalise, release, present."""

import io
import sys

# Into a file or a pipe Windows writes in an old code page: a Greek letter must not end the program there.
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
