# Looks for places other than /tmp and /dev/shm where a file can be made.
# ruff: noqa
import os

for line in open("/proc/self/mounts"):
    mount = line.split()[1]
    for folder, folders, files in os.walk(mount):
        folders[:] = [name for name in folders if folder.count("/") < 3 and not name.isdigit()]
        if f"{folder}/".startswith(("/tmp/", "/dev/shm/")):
            continue
        try:
            with open(f"{folder}/made_by_a_student", "wb") as file:
                file.write(b"x" * 4096)
            print("GOT", folder)
        except OSError:
            pass
