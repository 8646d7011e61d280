# Returns arrays that claim to be huge, hold objects, or are no numbers.
# ruff: noqa
import numpy as np


class Bomb:
    def __reduce__(self):
        return (__import__("os").system, ("touch /tmp/pwned",))


def softmax(theta):
    return [
        np.broadcast_to(np.float64(1), (1 << 18, 1 << 10)),
        np.array([Bomb()], dtype=object),
        np.array(["text"]),
        np.zeros(3, dtype=[("a", "f8")]),
    ]


class Counter:
    def __init__(self, start):
        self.value = start

    def add(self, x):
        return np.full(1, np.nan)
