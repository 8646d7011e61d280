# Takes memory in processes whose first thread has ended: Linux then shows them as holding none.
# ruff: noqa
import ctypes
import os
import threading
import time


def hold():
    time.sleep(0.2)  # the first thread ends before
    held.append(bytearray(b"x") * (450 << 20))
    time.sleep(600)


held = []
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # ends this thread alone
time.sleep(600)
