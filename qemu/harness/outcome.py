"""How a case ends when it does not pass."""


class Failed(Exception):
    """What was to hold does not."""


class Skipped(Exception):
    """This machine lacks what the case needs; says what, and what to do about it."""


class NotSetUp(Skipped):
    """It lacks root, loop devices, or a program that scripts/setup installs. Where
    LBPAYLOAD_NO_SKIPS=1 says that they are there, this is a failure."""
