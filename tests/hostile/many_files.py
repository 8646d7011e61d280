# Makes files without end.
# ruff: noqa
import itertools

for number in itertools.count():
    open(f"/tmp/file{number}", "w").close()
