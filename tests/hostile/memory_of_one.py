# Takes memory until there is none.
held = []
while True:
    held.append(bytearray(b"x") * (64 << 20))
