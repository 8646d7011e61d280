# Takes memory in many processes, each below the limit of one.
# ruff: noqa
import os
import time

for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        held = bytearray(b"x") * (200 << 20)
        time.sleep(600)
        os._exit(0)
time.sleep(600)
