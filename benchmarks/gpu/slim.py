"""Makes a CUDA library small for one kind of GPU: in its `.nv_fatbin` section only what that GPU runs is kept.

    python slim.py IN OUT [--arch 90]

File size and offsets stay; what is freed is zeros, which compress to nothing. Each container of the section keeps its code for the
architecture (an ELF), else the newest PTX that the driver can compile for it, else its smallest entry, so that none is empty.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = 0xBA55ED50
PTX, ELF = 1, 2


class Entry(NamedTuple):
    """One piece of code in a container."""

    kind: int
    arch: int
    start: int
    size: int


def section(data: bytes | bytearray, name: str) -> tuple[int, int]:
    """Offset and size of a section of a 64-bit ELF file.

    Raises:
        SystemExit: there is none.
    """
    (table,) = struct.unpack_from("<Q", data, 0x28)
    width, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + index * width) for index in range(count)]
    texts = headers[names][4]
    for header in headers:
        start = texts + header[0]
        if bytes(data[start : data.index(b"\0", start)]).decode() == name:
            return header[4], header[5]
    raise SystemExit(f"the file has no section {name}: it is no CUDA library")


def entries(data: bytes | bytearray, start: int, end: int) -> Iterator[Entry]:
    """The entries of a container."""
    while start < end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, start)
        (arch,) = struct.unpack_from("<I", data, start + 28)
        yield Entry(kind, arch, start, header + size)
        start += header + size


def chosen(found: list[Entry], arch: int) -> list[Entry]:
    """What an architecture needs of a container."""
    exact = [entry for entry in found if entry.kind == ELF and entry.arch == arch]
    compilable = sorted((entry for entry in found if entry.kind == PTX and entry.arch <= arch), key=lambda entry: entry.arch)
    return exact or compilable[-1:] or [min(found, key=lambda entry: entry.size)]


def slim(data: bytearray, arch: int) -> tuple[int, int]:
    """Compact every container in place; returns the bytes kept and freed."""
    start, size = section(data, ".nv_fatbin")
    place, end, kept, freed = start, start + size, 0, 0
    while place < end - 16:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, place)
        if magic != MAGIC:
            place += 8
            continue
        body, after = place + header, place + header + length
        code = b"".join(bytes(data[e.start : e.start + e.size]) for e in chosen(list(entries(data, body, after)), arch))
        data[body:after] = code + bytes(length - len(code))
        struct.pack_into("<Q", data, place + 8, len(code))
        kept, freed, place = kept + len(code), freed + length - len(code), (after + 7) // 8 * 8
    return kept, freed


def main() -> None:
    """Slim one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten")
    options = parser.parse_args()
    data = bytearray(options.source.read_bytes())
    kept, freed = slim(data, options.arch)
    options.target.write_bytes(data)
    print(f"{options.target}: kept {kept / 2**20:.1f} MiB of code, freed {freed / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
