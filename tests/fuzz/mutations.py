"""Mutations of files: accidental corruption and malicious content."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Random = np.random.Generator
NUMBERS = (b"0", b"-1", b"999999999999", b"1e308", b"nan", b"1e-320", b"2147483648", b"9" * 5000)
PNG = b"\x89PNG\r\n\x1a\n"
INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def mutate(content: bytes, random: Random) -> bytes:
    """Apply one to three random mutations; half the time inside a container format, with valid checksums."""
    if random.integers(2):
        if content.startswith(b"PK"):
            return _mutate_zip(content, random)
        if content.startswith(PNG):
            return _mutate_png(content, random)
    for _ in range(random.integers(1, 4)):
        content = KINDS[random.integers(len(KINDS))](content, random)
    return content


def _mutate_zip(content: bytes, random: Random) -> bytes:
    """Mutate one member and pack it again with a valid checksum."""
    source = zipfile.ZipFile(io.BytesIO(content))
    members = {member: source.read(member) for member in source.infolist()}
    # Prefer small members, which describe the large ones.
    chosen = sorted(members, key=lambda member: member.file_size)[int(len(members) * random.random() ** 2)]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for member, inner in members.items():
            file.writestr(member, mutate(inner, random) if member is chosen else inner, member.compress_type)
    return target.getvalue()


def _mutate_png(content: bytes, random: Random) -> bytes:
    """Mutate one chunk and update its length and checksum."""
    chunks, at = [], len(PNG)
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = random.integers(len(chunks))
    kind, data = chunks[chosen]
    chunks[chosen] = (kind, mutate(data, random))
    return PNG + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def cut(content: bytes, random: Random) -> bytes:
    return content[: random.integers(len(content) + 1)]


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 9) if changed else 0):
        changed[random.integers(len(changed))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwrite(content: bytes, random: Random) -> bytes:
    first, last = _span(content, random)
    fill = (b"\0", b"\xff", random.bytes(1))[random.integers(3)]
    return content[:first] + fill * (last - first) + content[last:]


def remove(content: bytes, random: Random) -> bytes:
    first, last = _span(content, random)
    return content[:first] + content[last:]


def repeat(content: bytes, random: Random) -> bytes:
    first, last = _span(content, random)
    return content[:last] + content[first:last] * int(random.integers(1, 20)) + content[last:]


def insert(content: bytes, random: Random) -> bytes:
    at = random.integers(len(content) + 1)
    return content[:at] + random.bytes(int(random.integers(1, 64))) + content[at:]


def integer(content: bytes, random: Random) -> bytes:
    """Overwrite bytes with an extreme binary integer."""
    size = (1, 2, 4, 8)[random.integers(4)]
    value = INTEGERS[random.integers(len(INTEGERS))] % 256**size
    at = random.integers(len(content) + 1)
    return content[:at] + value.to_bytes(size, ("little", "big")[random.integers(2)]) + content[at + size :]


def number(content: bytes, random: Random) -> bytes:
    """Replace a decimal number by an extreme one."""
    digits = [i for i, byte in enumerate(content[:65536]) if chr(byte).isdigit()]
    if not digits:
        return content
    first = last = digits[random.integers(len(digits))]
    while last < len(content) and chr(content[last]).isdigit():
        last += 1
    return content[:first] + NUMBERS[random.integers(len(NUMBERS))] + content[last:]


def random_bytes(content: bytes, random: Random) -> bytes:
    return random.bytes(int(random.integers(0, 512)))


def swap_words(content: bytes, random: Random) -> bytes:
    """Swap two parts that are separated by spaces or line breaks."""
    parts = content.split(b"\n" if random.integers(2) else b" ")
    if len(parts) > 2:
        i, j = random.integers(len(parts), size=2)
        parts[i], parts[j] = parts[j], parts[i]
    return (b"\n" if content.count(b"\n") + 1 == len(parts) else b" ").join(parts)


def _span(content: bytes, random: Random) -> tuple[int, int]:
    first = int(random.integers(len(content) + 1))
    return first, min(len(content), first + int(random.integers(1, 64)))


KINDS: tuple[Callable[[bytes, Random], bytes], ...] = (
    cut,
    flip,
    flip,
    overwrite,
    remove,
    repeat,
    insert,
    integer,
    integer,
    number,
    random_bytes,
    swap_words,
)
