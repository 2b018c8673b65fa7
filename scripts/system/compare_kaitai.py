"""Compares the parser that Kaitai Struct makes of lbpayload.ksy with `lbpayload list --json`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lbpayload import Lbpayload

BLOCK = 4096


def listed(program: str, image: Path) -> dict:
    done = subprocess.run([program, "list", "--json", image], capture_output=True, check=True)
    return json.loads(done.stdout)


def same(image: Path, program: str) -> Lbpayload:
    """Parses an image, after comparing it with the listing."""
    parsed, expected = Lbpayload.from_file(str(image)), listed(program, image)
    found = [(e.name, e.len_data, e.ofs_data) for e in parsed.entries]
    entries = [(e["name"], e["size"], e["data_offset"]) for e in expected["entries"]]
    assert found == entries, (found, entries)
    assert parsed.num_files == expected["files"]
    assert parsed.len_payload == expected["payload_bytes"]
    assert parsed.is_narrow == (expected["dialect"] == "u32")
    return parsed


def trailer_is_right(parsed: Lbpayload, image: Path, percent: int):
    """The parts lie where the header says, and fit the payload."""
    trailer, data = parsed.trailer, image.read_bytes()
    assert trailer.len_payload == parsed.len_payload and trailer.percent == percent
    assert trailer.version == 1 and trailer.flags == 0
    start = parsed.ofs_trailer
    assert trailer.second_header == data[start : start + BLOCK]
    blocks = -(-parsed.len_payload // BLOCK)
    # 8 bytes for each block of the payload and each recovery block, filled up to whole blocks.
    hashes = 8 * (blocks + trailer.len_recovery // BLOCK)
    assert trailer.len_block_hashes == -(-hashes // BLOCK) * BLOCK
    assert any(trailer.block_hashes[:hashes]) and not any(trailer.block_hashes[hashes:])
    assert len(trailer.recovery) == trailer.len_recovery > 0
    assert len(trailer.hash_tree) == trailer.len_hash_tree
    first = (12 if parsed.is_narrow else 16)
    headers, at = data[:first], first
    for entry in parsed.entries:
        headers += data[at : entry.ofs_data]
        at = entry.ofs_data + entry.len_data
    assert trailer.headers_copy == headers
    metadata = data[trailer.ofs_metadata :][: trailer.len_metadata]
    assert metadata == data[trailer.ofs_second_metadata :][: trailer.len_metadata]


def main(program: str):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        files = place / "files"
        files.mkdir()
        for name, size in {"empty": 0, "größe.txt": 5, "large": 5_000_001, "z": 4096}.items():
            (files / name).write_bytes(bytes(n * 7 % 251 for n in range(size)))
        images = 0
        for dialect in ["u64", "u32"]:
            image = place / f"{dialect}.img"
            pack = [program, "--quiet", "pack", "--dialect", dialect, "-o", image]
            subprocess.run([*pack, files], check=True)
            parsed = same(image, program)
            assert not parsed.has_trailer
            for entry in parsed.entries:
                assert entry.data == (files / entry.name).read_bytes()
            subprocess.run([*pack, "--protect=7", files], check=True)
            parsed = same(image, program)
            assert parsed.has_trailer
            trailer_is_right(parsed, image, 7)
            subprocess.run([*pack, "--allow-empty", "--list", "/dev/null"], check=True)
            same(image, program)
            images += 3
    print(f"check-kaitai: {images} images are read as lbpayload reads them")


main(sys.argv[1])
