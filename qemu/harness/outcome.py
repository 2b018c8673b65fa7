"""How a case ends when it does not pass."""


class Failed(Exception):
    """What was to hold does not."""


class Skipped(Exception):
    """This machine lacks what the case needs; says what, and what to do about it."""
