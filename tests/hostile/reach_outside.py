# Tries to reach a network, the host's files and its devices.
# ruff: noqa
import os
import pathlib
import socket

for family, address in (
    (socket.AF_INET, ("127.0.0.1", 22)),
    (socket.AF_INET, ("1.1.1.1", 53)),
    (socket.AF_UNIX, "/var/run/docker.sock"),
    (40, (2, 1024)),
):
    try:
        with socket.socket(family) as connection:
            connection.settimeout(0.5)
            connection.connect(address)
            print("REACHED", address)
    except (OSError, TypeError):
        pass
for path in (
    "/etc/passwd",
    "/etc/shadow",
    "/root/.ssh",
    "/home",
    "/var",
    "/sys",
    "/dev/sda",
    "/dev/mem",
    "/dev/kvm",
):
    if os.path.exists(path):
        print("REACHED", path)
for path in pathlib.Path(os.environ.get("PYTHONPATH", "/")).glob("*"):
    if path.name not in ("dgm_utils", ".venv"):
        print("REACHED", path)
for path in (
    "/inside.py",
    "/usr/bin/env",
    os.__file__,
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
):
    try:
        open(path, "ab").close()
        print("REACHED", path)
    except OSError:
        pass
