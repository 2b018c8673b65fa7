"""What is measured of each mount: the commands that read below it, and what their figures mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from mount_images import SMALL_PREFIX, Content

RANDOM_SECONDS = 2


@dataclass
class Row:
    key: str
    title: str
    unit: str
    # Called with the reader, the mount point and the content.
    command: Callable[[Path, Path, Content], list[str]]
    # The figure, from the seconds of the mount, those of the command, and what the reader says.
    figure: Callable[[float, float, dict], float]
    more_is_better: bool = False
    # Once before, untimed: the row is about what is left of it.
    again: bool = False


def rate(_mounting: float, _seconds: float, said: dict) -> float:
    return said["bytes"] / said["seconds"] / 1e9


def reads_a_second(_mounting: float, _seconds: float, said: dict) -> float:
    return said["reads"] / said["seconds"]


def since_mounting(mounting: float, seconds: float, _said: dict) -> float:
    return mounting + seconds


def alone(_mounting: float, seconds: float, said: dict) -> float:
    return said.get("seconds", seconds)


def random_reads(jobs: int) -> Callable[[Path, Path, Content], list[str]]:
    return lambda reader, point, what: [
        str(reader), "random", str(RANDOM_SECONDS), str(jobs), f"{point}/{what.large[0]}",
    ]


ROWS = [
    Row("ready", "ready: mount + ls of one name", "s",
        lambda reader, point, what: ["ls", f"{point}/{what.small[0]}"], since_mounting),
    Row("list", "mount + ls of all names", "s",
        lambda reader, point, what: ["ls", str(point)], since_mounting),
    Row("sequential", "sequential, 1 reader", "GB/s",
        lambda reader, point, what: [str(reader), "read", f"{point}/{what.large[0]}"], rate, True),
    Row("two", "2 readers, 2 files", "GB/s",
        lambda reader, point, what: [str(reader), "read", *(f"{point}/{name}" for name in what.large[:2])],
        rate, True),
    Row("random1", "random 4 KiB, 1 job", "IOPS", random_reads(1), reads_a_second, True),
    Row("random2", "random 4 KiB, 2 jobs", "IOPS", random_reads(2), reads_a_second, True),
    Row("find", "find with sizes", "s",
        lambda reader, point, what: ["find", str(point), "-type", "f", "-printf", "%s\\n"], alone),
    Row("small", "read the small files", "s",
        lambda reader, point, what: [str(reader), "each", str(point), SMALL_PREFIX], alone),
    Row("again", "sequential, a second time", "GB/s",
        lambda reader, point, what: [str(reader), "read", f"{point}/{what.large[0]}"], rate, True, again=True),
]
ALL = [row.key for row in ROWS]
