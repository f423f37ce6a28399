"""What strangers hide in files."""


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))
