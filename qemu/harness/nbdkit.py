"""Disks that nbdkit serves, with its plugins and filters."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .outcome import Failed, NotSetUp


@contextmanager
def served(*words: str | Path, **settings: str):
    """Serves a disk as long as the `with` lasts; gives the node for Disk.

    `words` are nbdkit's own, `settings` are for the environment of a plugin.
    """
    if not shutil.which("nbdkit"):
        raise NotSetUp("nbdkit is not installed; scripts/setup installs it, as root")
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        command = ["nbdkit", "--foreground", "--unix", path, *words]
        server = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.DEVNULL)
        try:
            while not path.exists():
                if server.poll() is not None:
                    raise Failed("nbdkit ended")
            yield {"driver": "nbd", "server": {"type": "unix", "path": str(path)}}
        finally:
            server.terminate()
            server.wait()
