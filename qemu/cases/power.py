"""The power goes: at any moment, each file under its name is a whole one."""

import random
import shutil
import subprocess
from dataclasses import replace
from functools import partial

from harness import filesystems, log_writes
from harness.case import case
from harness.disks import Disk
from harness.images import KIB, MIB, sample
from harness.machine import Setup
from harness.outcome import Failed

SEED = 6
# Files that are there before the import, with other bytes: of those either is whole.
_OLD = b"what was there before\n" * 500

_SCRIPT = """
    mkdir -p "$DEST"
    while read -r name; do [ -e "$DEST/$name" ] || cp /case/old "$DEST/$name"; done < /case/names
    sync
    payload-import --mount-proc
    say importing now
    lbpayload import --json "$DEST" > /report
    say report "$(cat /report)"
    pass
"""


class _Trial:
    """A payload of many small files and some large ones, and what a destination may hold.

    An import of it commits several times: at every 16 MiB of small files, and at its end.
    """

    def __init__(self, lab):
        chance = random.Random(SEED)
        files = sample() + [(f"small-{n:04}", chance.randrange(64 * KIB)) for n in range(2400)]
        files += [(f"large-{n:02}", chance.randrange(64 * KIB, 3 * MIB)) for n in range(16)]
        self.payload = lab.payload(files=sorted(files, key=lambda file: file[0].encode()))
        self.replaced = [f"small-{n:04}" for n in range(0, 2400, 20)] + ["large-03"]
        self.old = filesystems.digest(_OLD)
        self.points = self.checked = 0

    def setup(self, disk: Disk, kind: str, script: str = _SCRIPT) -> Setup:
        names = "".join(f"{name}\n" for name in self.replaced).encode()
        return Setup(
            [disk, Disk(self.payload.path, read_only=True)],
            script,
            filesystem=kind,
            files={"old": _OLD, "names": names},
        )

    def check(self, found: dict, where: str) -> None:
        """Fails unless each name is an old file or a new one, and none of the old is gone."""
        self.points += 1
        self.checked += len(found)
        for name, is_there in found.items():
            wanted = [self.payload.files.get(name)] + ([self.old] if name in self.replaced else [])
            if name != ".lbpayload-staging" and is_there not in wanted:
                raise Failed(f"{where}: {name} is {is_there}, which is none of {wanted}")
        if gone := [name for name in self.replaced if name not in found]:
            raise Failed(f"{where}: {gone[0]} was there before, and is gone, with {len(gone) - 1} others")

    def figures(self) -> str:
        return f"{self.points} points, {self.checked} files checked, losses: none"


@case("killed", "QEMU is killed at random moments of an import; boot and import again until the import completes; ext3")
def killed(lab):
    trial, chance = _Trial(lab), random.Random(SEED)
    completed, found, destination = 0, {}, None
    for cut in range(16):
        if destination is None:
            destination, found = lab.destination("ext3"), {}
        left = sum(it[0] for name, it in trial.payload.files.items() if found.get(name) != it)
        with lab.machine(trial.setup(Disk(destination.path, name="destination"), "ext3")) as machine:
            machine.hear("importing")
            wanted = _written(machine) + chance.randrange(left + MIB)
            while _written(machine) < wanted and not machine.ended():
                pass
            machine.cut()
        # On a copy: it is the guest that recovers the file system, at its next boot.
        copied = replace(destination, path=lab.directory / "copy.img")
        shutil.copy(destination.path, copied.path)
        found = filesystems.read_back(copied)
        trial.check(found, f"after cut {cut}")
        if all(found.get(name) == it for name, it in trial.payload.files.items()):
            completed, destination = completed + 1, None
    if destination:
        with lab.machine(trial.setup(Disk(destination.path), "ext3")) as machine:
            machine.verdict()
        lab.holds(destination, trial.payload.files)
        completed += 1
    return f"{trial.figures()}; {completed} imports came to their end over it"


def _written(machine) -> int:
    """Bytes that the guest has written to its first disk."""
    disks = machine.qmp("query-blockstats")
    return next(disk for disk in disks if "destination" in disk.get("qdev", ""))["stats"]["wr_bytes"]


def _power(lab, kind: str, script: str = _SCRIPT) -> str:
    """Records the writes of an import, and looks at the disk as it may be at each flush and
    between: what the last flush was for, and any of what came later."""
    trial, chance = _Trial(lab), random.Random(SEED)
    destination = lab.destination(kind)
    state = replace(destination, path=lab.directory / "state.img")
    shutil.copy(destination.path, state.path)
    path = lab.directory / "writes.log"
    disk = Disk(node=log_writes.node(destination.path, path))
    with lab.machine(trial.setup(disk, kind, script)) as machine:
        machine.hear("importing")
        # The last of them is the end of the guest's own sync.
        start = log_writes.number_of_entries(path)
        machine.verdict()
    log = log_writes.Log(path)
    flushes = [n for n, write in enumerate(log.writes) if write.is_flush and n >= start - 1]
    log.apply(log.writes[: flushes[0] + 1], state.path)
    found = _look(lab, trial, state, log, [], f"flush 0 of {len(flushes)}")
    for number, (flush, following) in enumerate(zip(flushes, [*flushes[1:], len(log.writes)])):
        between = log.writes[flush + 1 : following]
        for count in [chance.randrange(len(between)) + 1 for _ in range(2) if between]:
            where = f"behind flush {number} of {len(flushes)}, the next {count} of {len(between)} writes there"
            _look(lab, trial, state, log, between[:count], where)
        for share in (0.2, 0.5, 0.8) if between else ():
            some = [write for write in between if chance.random() < share]
            where = f"behind flush {number} of {len(flushes)}, some {len(some)} of {len(between)} writes there"
            _look(lab, trial, state, log, some, where)
        if following < len(log.writes):
            log.apply(log.writes[flush + 1 : following + 1], state.path)
            found = _look(lab, trial, state, log, [], f"flush {number + 1} of {len(flushes)}")
    # The import had ended with status 0: all of it was flushed by then.
    filesystems.compare(found, trial.payload.files, f"{kind} as of the last flush")
    return f"{len(log.writes) - start} writes, {len(flushes)} flushes; {trial.figures()}"


def _look(lab, trial: _Trial, state, log, more: list, where: str) -> dict:
    """What the disk holds after its recovery, with `more` writes behind its state."""
    tried = replace(state, path=lab.directory / "tried.img")
    subprocess.run(["cp", "--sparse=always", state.path, tried.path], check=True)
    log.apply(more, tried.path)
    with filesystems.mounted(tried) as external:
        found = filesystems.contents(external / "distfiles")
    trial.check(found, where)
    return found


for _kind in ("ext3", "ext4", "xfs"):
    _shows = f"power failure with lost write caches, {_kind}: the writes are replayed up to each flush of an import and to points in between"
    case(f"power-{_kind}", _shows)(partial(_power, kind=_kind))


_CONTROL = """
    with_nodes
    mkdir -p "$DEST"
    while read -r name; do cp /case/old "$DEST/$name"; done < /case/names
    sync
    say importing now
    # The journal is committed in between, as it is every five seconds.
    for n in $(seq 1001 1019) $(seq 1021 1039); do
        lbpayload cat /dev/vdb small-$n > "$DEST/small-$n"
        dd if=/case/old of=/other bs=4k conv=fsync
    done
    sync
    pass
"""


@case("power-control", "the same check with files that are written in place, ext4: it detects incomplete files")
def power_control(lab):
    try:
        _power(lab, "ext4", _CONTROL)
    except Failed as e:
        if "which is none of" in str(e):
            return str(e).split(": ")[0]
        raise
    raise Failed("files that were written in place were found to be whole")
