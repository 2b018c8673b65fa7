"""Makes the generated parts of the documents, or compares them with what is there."""

import difflib
import os
import re
import sys
import tempfile
from pathlib import Path

import pictures
import session
import stage
import transcripts

DOCS = Path("docs")
PAGES = ["start.md", "commands.md"]

# What differs from run to run, and means nothing.
MASKS = [
    (r"[\d.]+ (?:ms|s)\b", "N s"),
    (r"[\d.]+ [KMG]iB/s", "N/s"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ promote by \w+", "TIME promote by USER"),
    # The width of a line on the recording.
    (r'textLength="\d+"', "textLength"),
    (r"lbpayload \d+\.\d+\.\d+", "lbpayload V"),
]


def masked(text):
    for pattern, to in MASKS:
        text = re.sub(pattern, to, text)
    return text


def made():
    """Yields each file that is made, with its content."""
    for page in PAGES:
        with tempfile.TemporaryDirectory(dir="/tmp", prefix="lbpayload-") as work:
            stage.fill(Path(work))
            yield DOCS / page, transcripts.run((DOCS / page).read_text(), Path(work))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lbpayload-") as work:
        stage.fill(Path(work))
        yield DOCS / "pictures/session.svg", session.record(Path(work))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lbpayload-") as work:
        stage.fill(Path(work))
        for name, text in pictures.draw(Path(work)):
            yield DOCS / "pictures" / name, text


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit("usage: scripts/documents [--check]")
    os.environ["PATH"] = f"{stage.programs()}:{os.environ['PATH']}"
    differs = 0
    for path, text in made():
        old = path.read_text() if path.exists() else ""
        if masked(old) == masked(text):
            continue
        differs += 1
        if check:
            lines = difflib.unified_diff(
                masked(old).splitlines(), masked(text).splitlines(), str(path), "made again", lineterm=""
            )
            print("\n".join(list(lines)[:60]))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path}")
    if check and differs:
        sys.exit("documents: the files above are not what a run gives, `scripts/documents` writes them")


main()
