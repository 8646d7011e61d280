# Makes files without end.
import itertools

for number in itertools.count():
    open(f"/tmp/file{number}", "w").close()
