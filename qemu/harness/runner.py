"""Runs cases and tells how they ended."""

import os
import shutil
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .case import Case
from .lab import Lab
from .outcome import Failed, NotSetUp, Skipped
from .places import WORK

_telling = threading.Lock()


def run_all(cases: list[Case], jobs: int) -> Counter:
    """Each once, `jobs` at a time, a line for each as it ends; how many of each outcome."""
    with ThreadPoolExecutor(jobs) as pool:
        return Counter(pool.map(_run, cases))


def _run(case: Case) -> str:
    directory = WORK / "cases" / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    start = time.monotonic()
    try:
        outcome, why = "passed", case.run(Lab(directory)) or ""
    except Skipped as e:
        forbidden = isinstance(e, NotSetUp) and os.environ.get("LBPAYLOAD_NO_SKIPS") == "1"
        outcome, why = "failed" if forbidden else "skipped", str(e)
    except Failed as e:
        outcome, why = "failed", str(e)
    except Exception:
        outcome, why = "failed", f"the case itself is broken:\n{traceback.format_exc()}"
    if outcome == "failed":
        why += f"\n    kept: {directory}"
    else:
        shutil.rmtree(directory)
    _tell(case.name, outcome, time.monotonic() - start, why)
    return outcome


def _tell(name: str, outcome: str, seconds: float, why: str) -> None:
    label = {"passed": "PASS", "failed": "FAIL", "skipped": "SKIP"}[outcome]
    line = f"{label} {name} ({seconds:.1f} s)" + (f": {why}" if why else "")
    with _telling:
        print(line, flush=True)
