# Prints without end, past every layer.
# ruff: noqa
import os
import sys

line = "<script>alert(1)</script>" * 1000
while True:
    print(line)
    sys.stderr.write(line)
    sys.__stdout__.write(line)
    os.write(1, line.encode())
