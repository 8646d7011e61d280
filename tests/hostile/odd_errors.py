# Raises errors that cannot be printed, caught or named.
# ruff: noqa
class Silent(BaseException):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def softmax(theta):
    raise Silent


class Counter:
    __getattr__ = __call__ = None


import sys

sys.excepthook = sys.displayhook = None
sys.setrecursionlimit(10**6)
raise Silent
