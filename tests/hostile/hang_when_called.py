# Behaves until an answer is asked for, then hangs.
# ruff: noqa
import signal
import time


def softmax(theta):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


class Counter:
    def __init__(self, start):
        while True:
            pass
