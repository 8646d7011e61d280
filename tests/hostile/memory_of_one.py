# Takes memory until there is none.
# ruff: noqa
held = []
while True:
    held.append(bytearray(b"x") * (64 << 20))
