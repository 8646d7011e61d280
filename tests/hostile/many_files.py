# Makes files without end, whatever the file system says.
# ruff: noqa
import itertools

for number in itertools.count():
    try:
        open(f"/tmp/file{number}", "w").close()
    except OSError:
        pass
