"""How a bench begins and ends: its options, its quiet, its workspace, Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Callable, Iterator

import machine
import places
from places import BenchError, warn

HERE = Path(__file__).resolve().parent


class Interrupted(Exception):
    def __init__(self, number: int):
        self.number = number


def several(known: list[str]) -> Callable[[str], list[str]]:
    def parse(words: str) -> list[str]:
        chosen = [word for word in words.split(",") if word]
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word}: known are {', '.join(known)}")
        return chosen

    return parse


def add_arguments(add: Callable, command: str) -> None:
    """The options that every bench has. `command` is the one of ours that it measures."""
    add("--runs", type=int, default=5, help="rounds; every peer runs once in each (5)")
    add("--scale", type=float, default=1.0, help="shrinks the payloads, for a quick try (1)")
    add("--ours-args", action="append", default=[], metavar="ARGS",
        help=f"one more variant of ours, with these arguments to {command} (repeats)")
    add("--lock", type=Path, metavar="FILE",
        help="take an exclusive flock on FILE around each timed run, a shared one around making images")
    add("--lbpayload", type=Path, default=machine.TARGET / "release/lbpayload", metavar="PATH")
    add("--out", type=Path, default=machine.ROOT / "docs/bench", metavar="DIR")
    add("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="where the disk place lies (/var/tmp)")
    add("--render", type=Path, nargs="+", metavar="JSON", help="run nothing, show these raw runs")


def check(options: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        raise BenchError(f"needs root, for loop devices and mounts: sudo {sys.argv[0]}")
    if options.runs < 1 or not 0 < options.scale <= 1:
        raise BenchError("--runs wants 1 or more, --scale something above 0 and up to 1")


@contextlib.contextmanager
def locked(lock: Path | None, how: int) -> Iterator[None]:
    if lock is None:
        yield
        return
    # Not inherited: a server that outlives this run must not keep the lock.
    with open(lock, "a") as held:
        fcntl.flock(held, how)
        yield


def quiet(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Alone on the machine, among those who use the same lock."""
    return locked(options.lock, fcntl.LOCK_EX)


def shared(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Busy, untimed: keeps out those who measure, and nobody else."""
    return locked(options.lock, fcntl.LOCK_SH)


def build(root: Path, name: str) -> Path:
    """Compiled on the spot: a binary in the tree would be nobody's."""
    binary = root / name
    places.call("cc", "-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-pthread", "-o", binary, HERE / f"{name}.c")
    return binary


def rotated(everyone: list, number: int) -> list:
    """Nobody is always first, or always behind the same one."""
    at = number % max(1, len(everyone))
    return everyone[at:] + everyone[:at]


def new_raw(options: argparse.Namespace, name: str, versions: list[str]) -> dict:
    return {
        "schema": 1,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": shlex.join([f"scripts/bench-{name}", *sys.argv[1:]]),
        "machine": machine.facts(options.work, versions),
        "tables": [],
    }


# In and out.


def write(out: Path, name: str, texts: dict[str, str], raw: dict | None) -> None:
    """`texts` by file ending; `raw` where the runs are new."""
    out.mkdir(parents=True, exist_ok=True)
    if raw:
        texts = {**texts, "json": json.dumps(raw, indent=1) + "\n"}
    for ending, text in texts.items():
        (out / f"{name}.{ending}").write_text(text)
    warn(f"wrote {out}/{name}.{{{','.join(texts)}}}")


def read(paths: list[Path]) -> list[dict]:
    return [json.loads(path.read_text()) for path in paths]


def interrupt(number: int, _frame: object) -> None:
    raise Interrupted(number)


def catch_signals(handler: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def conduct(options: argparse.Namespace, name: str, bench: Callable, texts: Callable) -> int:
    """Runs `bench(options, root)` in a workspace of its own, which is gone afterwards."""
    options.work = options.work.resolve()
    places.sweep_leftovers(options.work)
    root = options.work / f"{places.PREFIX}{os.getpid()}"
    catch_signals(interrupt)
    raw = None
    try:
        root.mkdir()
        one = bench(options, root)
        raw = one.raw
        one.run()
    except BaseException as stop:
        # What took an hour to measure is kept, whatever came after it.
        if raw and raw["tables"]:
            write(options.out, f"{name}.partial", {}, raw)
            warn("stopped; those are the runs so far (see --render)")
        if not isinstance(stop, Interrupted):
            raise
        return 128 + stop.number
    finally:
        # A second Ctrl-C must not leave devices behind.
        catch_signals(signal.SIG_IGN)
        places.sweep(root)
    if not raw["tables"]:
        raise BenchError("nothing was run")
    write(options.out, name, texts([raw]), raw)
    return 1 if any(table["failed"] for table in raw["tables"]) else 0


def main(options: argparse.Namespace, name: str, bench: Callable[[], int], texts: Callable) -> int:
    try:
        if options.render:
            write(options.out, name, texts(read(options.render)), None)
            return 0
        return bench()
    except (BenchError, OSError) as error:
        warn(f"error: {error}")
        return 1
