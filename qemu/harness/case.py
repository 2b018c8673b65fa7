"""Cases, and how they are found."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import cases


@dataclass(frozen=True)
class Case:
    """Something that is shown to hold in a guest."""

    name: str
    # What it shows, one line of Markdown.
    shows: str
    # Whether it is part of the test command.
    quick: bool
    # What it returns is told behind PASS: figures.
    run: Callable[["lab.Lab"], str | None]  # noqa: F821 - a case imports the lab, not this module


_cases: dict[str, Case] = {}


def case(name: str, shows: str, quick: bool = False):
    """Registers a function that is given a Lab. It passes when it returns."""

    def add(run):
        assert name not in _cases, f"two cases are called {name}"
        _cases[name] = Case(name, shows, quick, run)
        return run

    return add


def all_cases() -> dict[str, Case]:
    """By name, in the order of the families and of their files."""
    for module in sorted(m.name for m in pkgutil.iter_modules(cases.__path__)):
        importlib.import_module(f"cases.{module}")
    return _cases
