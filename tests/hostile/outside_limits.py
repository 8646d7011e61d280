# Takes what no limit of a process counts: anonymous files, System V segments, namespaces, other cores.
# ruff: noqa
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
try:
    os.memfd_create("x")
    print("GOT memfd")
except OSError:
    pass
if libc.shmget(0, 1 << 30, 0o1600) >= 0:
    print("GOT shm")
try:
    os.sched_setaffinity(0, range(os.cpu_count()))
    print("GOT every core")
except OSError:
    pass
if libc.unshare(0x10000000) == 0:
    print("GOT user namespace")
if libc.syscall(425, 8, None) >= 0:
    print("GOT io_uring")
if os.uname().machine != "x86_64":
    raise SystemExit
for name, number in {
    "vmsplice": 278,
    "tee": 276,
    "splice": 275,
    "io_setup": 206,
    "inotify_init1": 294,
}.items():
    ctypes.set_errno(0)
    if libc.syscall(number, -1, 0, 0, 0) >= 0 or ctypes.get_errno() != 1:
        print("GOT", name)
for family in (2, 10, 16, 40):
    try:
        __import__("socket").socket(family, 1)
        print("GOT socket", family)
    except OSError:
        pass
