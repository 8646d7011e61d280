# Sends outputs itself: wrong sizes, half frames, names that point elsewhere, headers that lie.
# ruff: noqa
import os
import struct


def frame(name, data, length=None):
    return struct.pack(">IQ", len(name), len(data) if length is None else length) + name + data


def header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


lies = [
    frame(b"../../../../tmp/escaped/0/0", b"x"),
    frame(b"q1/0/0", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}\n")),
    frame(b"q1/0/0", header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + b"cos\nsystem\n."),
    frame(b"q1/0/0", header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n") + b"x" * 8),
    frame(b"q1/0/0", header("(" * 5000 + ")" * 5000)),
    frame(b"q1", b"[" * 100000),
    frame(b"q2/99999999999999999999/0", b"x"),
    *[frame(b"q9/%d/0" % number, b"") for number in range(20000)],
    frame(b"cells", b'{"no": "list"}'),
    frame(b"q1/0/0", b"", length=1 << 62),
]
for process in filter(str.isdigit, os.listdir("/proc")):
    for descriptor in range(64):
        try:
            if "pipe" in os.readlink(f"/proc/{process}/fd/{descriptor}"):
                with open(f"/proc/{process}/fd/{descriptor}", "wb", buffering=0) as file:
                    os.set_blocking(file.fileno(), False)
                    for lie in lies:
                        file.write(lie)
        except OSError:
            pass
