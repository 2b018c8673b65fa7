"""Runs the commands of a page, and puts what they print below them.

A block of the kind `console` has lines `$ COMMAND`, each followed by its output. The comment
`<!-- run: COMMAND -->` runs a command that is not shown."""

import os
import re
import subprocess

HIDDEN = re.compile(r"<!-- run: (.*) -->")


def shell(command, work):
    """Runs a command, and returns what it prints: both streams, in order."""
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, LC_ALL="C.UTF-8", TZ="UTC"),
        timeout=120,
    )
    text = ran.stdout.decode(errors="replace").replace(str(work), "/home/anna")
    # On a terminal, which is what a page shows, messages have no name in front.
    return re.sub(r"^lbpayload: (error|warning|note|help):", r"\1:", text, flags=re.M)


def run(page, work):
    """Returns the page with its transcripts made again."""
    out = []
    inside = False
    for line in page.splitlines():
        hidden = HIDDEN.fullmatch(line)
        if hidden:
            shell(hidden[1], work)
        if line == "```console":
            inside = True
        elif line == "```":
            inside = False
        elif inside and line.startswith("$ "):
            out.append(line)
            out.extend(text.rstrip() for text in shell(line[2:], work).splitlines())
            continue
        elif inside:
            continue
        out.append(line)
    return "\n".join(out) + "\n"
