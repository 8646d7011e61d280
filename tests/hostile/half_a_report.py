# Begins to say something in every pipe there is, and never ends.
# ruff: noqa
import os
import struct
import time

for descriptor in range(64):
    try:
        if "pipe" in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.write(descriptor, struct.pack(">i", 1 << 26))  # as a connection of multiprocessing would
            os.write(descriptor, b'{"begin": 0, "text": "')
    except OSError:
        pass
while True:
    try:
        time.sleep(600)
    except BaseException:
        continue
