"""Draws the pictures of the documents."""

from html import escape

import transcripts

BLUE, GREEN, GREY, ORANGE, RED = "#dbe7f5", "#dcefd9", "#eeeeee", "#fbe5cf", "#f6d5d5"
INK = "#333333"


class Picture:
    def __init__(self, width, height, about):
        self.out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(about)}" font-family="system-ui, sans-serif" font-size="14">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def box(self, x, y, width, height, lines, fill):
        self.out.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}" stroke="{INK}"/>'
        )
        lines = lines.split("\n")
        top = y + height / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + number * 18, line, "middle")

    def text(self, x, y, text, anchor="start"):
        self.out.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>')

    def arrow(self, x1, y1, x2, y2, text=""):
        self.out.append(
            f'<path d="M{x1} {y1} {x2} {y2}" stroke="{INK}" fill="none" marker-end="url(#tip)"/>'
        )
        if text:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 6, text, "middle")

    def end(self):
        return "\n".join(self.out + ["</svg>"]) + "\n"


def container():
    p = Picture(920, 230, "The layout of a payload")
    p.text(10, 24, "bytes 0 to P: the payload, as every reader of the format knows it")
    x = 10
    for width, lines, fill in [
        (110, "LBPAYLD1\nnumber of files", ORANGE),
        (110, "name length\nsize, name", GREY),
        (190, "data of\nthe first file", BLUE),
        (110, "name length\nsize, name", GREY),
        (130, "data of\nthe second", BLUE),
        (40, "…", GREY),
        (210, "protection trailer\n(optional)", GREEN),
    ]:
        p.box(x, 40, width, 60, lines, fill)
        x += width
    p.text(700, 24, "behind P: others ignore it")
    p.arrow(805, 104, 470, 136)
    x = 10
    for width, lines, fill in [
        (90, "header", ORANGE),
        (230, "hash tree,\ncopy of the headers", GREY),
        (260, "recovery blocks\n(Reed-Solomon)", GREEN),
        (230, "hash tree and copy\nonce more", GREY),
        (90, "header", ORANGE),
    ]:
        p.box(x, 142, width, 56, lines, fill)
        x += width
    p.text(10, 220, "twice, before and behind the recovery blocks, so that one damaged run cannot reach both")
    return p.end()


def importing():
    p = Picture(920, 300, "The flow of an import")
    p.box(10, 30, 130, 60, "disk\n(O_DIRECT)", GREY)
    p.arrow(140, 60, 190, 60)
    p.box(190, 30, 170, 60, "large blocks,\nseveral in flight", BLUE)
    p.arrow(360, 60, 410, 60)
    p.box(410, 30, 170, 60, "files without a name,\nhashed on the way", BLUE)
    p.arrow(580, 60, 630, 60)
    p.box(630, 30, 130, 60, "one flush\nfor many files", GREEN)
    p.arrow(760, 60, 790, 60)
    p.box(790, 30, 120, 60, "names", GREEN)
    p.arrow(275, 90, 275, 150, "")
    p.text(285, 124, "a block that cannot be read")
    p.box(190, 150, 170, 60, "sector by sector,\nafter everything else", ORANGE)
    p.arrow(360, 180, 410, 180)
    p.box(410, 150, 170, 60, "other copies,\nthen retries", ORANGE)
    p.arrow(495, 150, 495, 92)
    p.text(505, 124, "healed files")
    p.arrow(580, 180, 630, 180)
    p.box(630, 150, 280, 60, "still damaged: no name,\nreported with exact ranges", RED)
    p.text(10, 250, "A file gets its name when all of it is right and on stable storage, not before.")
    p.text(10, 274, "After Ctrl-C, kill -9 or a power failure, what has its name is complete, and the next run goes on.")
    return p.end()


def maps(work):
    """Three maps of a real payload: whole, damaged, and repaired."""
    run = lambda command: transcripts.shell(command, work)
    run("lbpayload pack --protect -o external.img distfiles/")
    run("lbpayload show --svg whole.svg external.img")
    run("dd if=/dev/zero of=external.img bs=64K seek=70 count=8 conv=notrunc; "
        "dd if=/dev/zero of=external.img bs=512 count=1 conv=notrunc")
    run("lbpayload show --verify --svg damaged.svg external.img")
    run("lbpayload repair external.img")
    run("lbpayload show --verify --svg repaired.svg external.img")
    return [
        ("a protected payload", work / "whole.svg"),
        ("half a megabyte and the first sector are overwritten with zeros", work / "damaged.svg"),
        ("after `lbpayload repair`: the same bytes as before", work / "repaired.svg"),
    ]


def healing(work):
    p = Picture(920, 700, "The healing of a damaged payload")
    for number, (words, path) in enumerate(maps(work)):
        y = number * 232
        p.text(10, y + 22, words)
        text = path.read_text()
        inner = text[text.index(">") + 1 : text.rindex("</svg>")]
        p.out.append(f'<svg x="10" y="{y + 32}" width="900" height="190" viewBox="0 0 960 304" '
                     f'preserveAspectRatio="none">{inner}</svg>')
    return p.end()


def draw(work):
    yield "container.svg", container()
    yield "import.svg", importing()
    yield "healing.svg", healing(work)
