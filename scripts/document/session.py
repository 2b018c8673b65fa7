"""Records a session on a terminal as an SVG drawing."""

import fcntl
import os
import pty
import re
import struct
import termios
from html import escape

COLUMNS = 92
COMMANDS = [
    "lbpayload pack --protect -o external.img distfiles/",
    "dd if=/dev/zero of=external.img bs=64K seek=70 count=4 conv=notrunc status=none",
    "lbpayload --progress none show --verify external.img",
    "lbpayload import --progress none --device external.img out",
    "lbpayload repair --progress none external.img",
]

COLORS = {
    30: "#3b4048", 31: "#e06c75", 32: "#98c379", 33: "#e5c07b", 34: "#61afef",
    35: "#c678dd", 36: "#56b6c2", 37: "#abb2bf", 90: "#6b7280", 91: "#ff5f5f",
}
TEXT = "#d7dae0"
SGR = re.compile(r"\x1b\[([\d;]*)m")
OTHER = re.compile(r"\x1b\[[\d;?]*[A-Za-ln-z]")


def in_terminal(command, work):
    """Runs a command on a terminal of its own, and returns what it printed."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(work)
        os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8")
        os.environ.pop("NO_COLOR", None)
        os.execvp("bash", ["bash", "-c", f"stty cols {COLUMNS} rows 40; {command}"])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    data = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        data += part
    os.close(fd)
    os.waitpid(pid, 0)
    text = OTHER.sub("", data.decode(errors="replace")).replace(str(work), "/home/anna")
    return [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]


def spans(line):
    """Splits a line at its colors. Yields colors and texts, and joins what has the same color."""
    color, at, out = TEXT, 0, []
    for match in list(SGR.finditer(line)) + [None]:
        text = line[at : match.start() if match else len(line)]
        if text:
            if out and out[-1][0] == color:
                out[-1][1] += text
            else:
                out.append([color, text])
        if match is None:
            return out
        at = match.end()
        for code in [int(c or 0) for c in match[1].split(";")]:
            if code == 0:
                color = TEXT
            elif code in COLORS:
                color = COLORS[code]


def record(work):
    lines = []
    for command in COMMANDS:
        lines.append(f"\x1b[32m$\x1b[0m {command}")
        said = in_terminal(command, work)
        while said and not said[-1].strip():
            said.pop()
        lines += said + [""]
    lines.pop()
    width, height, row = COLUMNS * 8 + 40, len(lines) * 18 + 40, 18
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e2127"/>',
    ]
    for number, line in enumerate(lines):
        y = 32 + number * row
        x = 20
        for color, text in spans(line):
            # The length keeps columns in place, whatever font there is.
            out.append(
                f'<text x="{x}" y="{y}" fill="{color}" xml:space="preserve" '
                f'textLength="{len(text) * 8}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
            )
            x += len(text) * 8
    return "\n".join(out + ["</svg>"]) + "\n"
