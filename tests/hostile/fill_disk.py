# Fills every place that can be written, with a big file, a sparse one and links.
# ruff: noqa
import os

for folder in ("/tmp", "/dev/shm", "/dev", "/", "/usr", "/proc/self"):
    for number in range(40):
        try:
            with open(f"{folder}/big{number}", "wb") as file:
                for _ in range(64):
                    file.write(b"x" * (8 << 20))
            with open(f"{folder}/sparse{number}", "wb") as file:
                file.truncate(1 << 40)
        except OSError:
            pass
try:
    os.symlink("/etc/passwd", "/tmp/q1.0.0.npy")
except OSError:
    pass
