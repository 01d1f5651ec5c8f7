"""Damaged series: the kinds of benchmarks.series_files with something wrong, each from a seed and a number."""

import functools
import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.series_files import good_files, zipped

_SUFFIXES = {"zip": ".zip", "NIfTI": ".nii", "NIfTI, gzip": ".nii.gz", "PNG": ".png", "JPEG": ".jpg"}
_PICTURES = ("PNG", "JPEG")
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_VRS = (b"DS", b"IS", b"US", b"SS", b"UI", b"LO", b"PN", b"FD", b"UN", b"SQ", b"OW", b"UT", b"ZZ", b"\0\0")
_ROWS, _COLUMNS, _BITS = (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0100)
_NUMBERS = (_ROWS, _COLUMNS, _BITS, (0x0028, 0x0101), (0x0028, 0x0102), (0x0028, 0x0103), (0x0028, 0x0002))


@dataclass(frozen=True)
class Element:
    """Where one element of explicit VR little endian lies in a file."""

    tag: tuple[int, int]
    start: int
    length_at: int
    length_size: int
    value: int
    end: int


@dataclass(frozen=True)
class Hostile:
    """One input.

    Attributes:
        kind: of the file that was damaged.
        damage: what was done to it.
        suffix: of its name.
        content: its bytes.
        folder: whether it is given as a folder, with good files of the kind beside it, and not as a file.
    """

    kind: str
    damage: str
    suffix: str
    content: bytes
    folder: bool


@functools.cache
def seeds() -> dict[str, bytes]:
    """The valid files, made once in a process."""
    return good_files()


def elements(content: bytes) -> list[Element]:
    """The top-level elements of a file of explicit VR little endian, as far as they can be followed."""
    found, at = [], 132
    while at + 8 <= len(content):
        group, element, vr, length = struct.unpack_from("<HH2sH", content, at)
        long = vr in _LONG
        if long and at + 12 > len(content):
            break
        length_at, size = (at + 8, 4) if long else (at + 6, 2)
        if long:
            length = struct.unpack_from("<I", content, length_at)[0]
        value = length_at + size
        end = len(content) if length == 0xFFFFFFFF else value + length
        if end > len(content):
            break
        found.append(Element((group, element), at, length_at, size, value, end))
        if length == 0xFFFFFFFF and group != 0x7FE0:
            break
        at = end
    return found


def hostile(seed: int, number: int, bomb: int = 2**30) -> Hostile:
    """Makes one input; the same arguments give the same one.

    Args:
        seed, number: of the damage.
        bomb: bytes that each stream of a bomb unpacks to.
    """
    rng = np.random.default_rng([seed, number])
    if rng.random() < 0.06:
        damage = list(BOMBS)[rng.integers(len(BOMBS))]
        kind, suffix, content = BOMBS[damage](rng, bomb)
        return Hostile(kind, damage, suffix, content, False)
    kind = list(seeds())[rng.integers(len(seeds()))]
    content = seeds()[kind]
    known = elements(content) if kind not in _SUFFIXES else []
    kinds = [*BYTES] + [*STRUCTURE] * (len(known) > 10) + [*NIFTI] * (kind == "NIfTI")
    damage = kinds[rng.integers(len(kinds))]
    if damage in BYTES:
        content = BYTES[damage](content, rng)
    elif damage in STRUCTURE:
        content = STRUCTURE[damage](content, known, rng)
    else:
        content = NIFTI[damage](content, rng)
    beside = kind in _PICTURES or kind == "DICOMDIR" or (kind not in _SUFFIXES and rng.random() < 0.3)
    return Hostile(kind, damage, _SUFFIXES.get(kind, ".dcm"), content, beside)


def write(case: Hostile, folder: Path) -> Path:
    """Writes an input into an empty folder; returns what is to be read."""
    if not case.folder:
        path = folder / f"hostile{case.suffix}"
        path.write_bytes(case.content)
        return path
    if case.kind == "DICOMDIR":
        (folder / "DICOMDIR").write_bytes(case.content)
        (folder / "good.dcm").write_bytes(seeds()["ExplicitVRLittleEndian"])
        return folder
    (folder / f"hostile{case.suffix}").write_bytes(case.content)
    good = seeds()[case.kind] if case.kind in _PICTURES else seeds()["ExplicitVRLittleEndian"]
    (folder / f"good{case.suffix}").write_bytes(good)
    return folder


def _truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(len(content), size=rng.integers(1, 30)):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _flipped_head(content: bytes, rng: np.random.Generator) -> bytes:
    size = min(len(content), 1500)
    return _flipped(content[:size], rng) + content[size:]


def _flipped_tail(content: bytes, rng: np.random.Generator) -> bytes:
    """In DICOM, the pixels: with compression, the code stream."""
    size = min(len(content), 1400)
    return content[:-size] + _flipped(content[-size:], rng)


def _cut_stream(content: bytes, rng: np.random.Generator) -> bytes:
    """Less of the pixels in a file of the same length: what is cut is zeros."""
    size = rng.integers(min(len(content), 1400))
    return content[: len(content) - size] + b"\0" * int(size)


def _flipped_once(content: bytes, rng: np.random.Generator) -> bytes:
    """One or two bytes of the pixels: a code stream that goes on for a while before it breaks."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        changed[-int(rng.integers(1, min(len(content), 1400)))] = int(rng.integers(256))
    return bytes(changed)


def _blanked(content: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(content)), rng.integers(1, 200)
    return content[:at] + bytes([int(rng.choice([0, 0xFF]))]) * int(size) + content[at + size :]


def _inserted(content: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(content))
    return content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:]


def _cut_out(content: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(content)), rng.integers(1, 100)
    return content[:at] + content[at + size :]


def _doubled(content: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(content)), rng.integers(1, 1000)
    return content[: at + size] + content[at:]


BYTES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "truncated": _truncated,
    "bytes flipped": _flipped,
    "bytes flipped in the header": _flipped_head,
    "bytes flipped in the pixels": _flipped_tail,
    "one or two bytes changed in the pixels": _flipped_once,
    "the end of the pixels blanked": _cut_stream,
    "a run blanked": _blanked,
    "bytes inserted": _inserted,
    "bytes cut out": _cut_out,
    "a part doubled": _doubled,
}


def _missing(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    element = known[rng.integers(len(known))]
    return content[: element.start] + content[element.end :]


def _wrong_length(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    element = known[rng.integers(len(known))]
    length = int(rng.choice([0, 1, 3, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]))
    length = length & (256**element.length_size - 1)
    return (
        content[: element.length_at]
        + length.to_bytes(element.length_size, "little")
        + content[element.length_at + element.length_size :]
    )


def _wrong_vr(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    at = known[rng.integers(len(known))].start + 4
    return content[:at] + _VRS[rng.integers(len(_VRS))] + content[at + 2 :]


def _wrong_value(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    element = known[rng.integers(len(known) - 1)]  # but for the pixels
    size = element.end - element.value
    choices = [rng.bytes(size), b"\0" * size, b"9" * size, b"-1e308\\nan\\"[:size].ljust(size), b"\xff" * size]
    return content[: element.value] + choices[rng.integers(len(choices))] + content[element.end :]


def _huge(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    """Rows, Columns, the bits, or NumberOfFrames, which is added if it is not there."""
    if rng.random() < 0.3:
        count = rng.choice([b"0 ", b"-1", b"99", b"65535 ", b"2147483647", b"999999999999"])
        element = struct.pack("<HH2sH", 0x0028, 0x0008, b"IS", len(count)) + count
        at = next((each.start for each in known if each.tag > (0x0028, 0x0008)), len(content))
        return content[:at] + element + content[at:]
    changed = bytearray(content)
    for element in known:
        if element.tag in _NUMBERS and rng.random() < 0.5 and element.end - element.value == 2:
            value = int(rng.choice([0, 1, 2, 7, 31, 4096, 32767, 32768, 65535]))
            changed[element.value : element.end] = value.to_bytes(2, "little")
    return bytes(changed)


def _nested(content: bytes, known: list[Element], rng: np.random.Generator) -> bytes:
    """Sequences within sequences, of undefined or of defined length."""
    depth = int(rng.choice([50, 900, 5000, 50_000]))
    tag = bytes.fromhex("08004011") if rng.random() < 0.5 else bytes.fromhex("00522992")  # SQ, one is read
    start = tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = next((element.start for element in known if element.tag > (0x0008, 0x1140)), len(content))
    end = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth * int(rng.random() < 0.5)
    return content[:at] + start * depth + end + content[at:]


STRUCTURE: dict[str, Callable[[bytes, list[Element], np.random.Generator], bytes]] = {
    "an element missing": _missing,
    "a wrong length": _wrong_length,
    "a wrong VR": _wrong_vr,
    "a wrong value": _wrong_value,
    "huge numbers": _huge,
    "deep sequences": _nested,
}


def _nifti_field(places: list[tuple[int, str]], values: list[float]) -> Callable:
    def damage(content: bytes, rng: np.random.Generator) -> bytes:
        changed = bytearray(content)
        at, kind = places[rng.integers(len(places))]
        value = values[rng.integers(len(values))]
        if kind == "h":  # 16 bits
            value = int(np.clip(np.nan_to_num(value), -32768, 32767))
        struct.pack_into(f"<{kind}", changed, at, value)
        return bytes(changed)

    return damage


NIFTI: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "a wrong dim": _nifti_field([(40 + 2 * n, "h") for n in range(8)], [-1, 0, 1, 2, 8, 500, 32767]),
    "a wrong datatype": _nifti_field([(70, "h"), (72, "h")], [0, 1, 2, 8, 32, 64, 128, 1536, 9999]),
    "a wrong offset": _nifti_field([(108, "f")], [float("nan"), float("inf"), -1.0, 0.0, 351.5, 1e6, 1e30]),
    "a wrong scale": _nifti_field([(112, "f"), (116, "f")], [float("nan"), float("inf"), 1e38, -1e38, 0.0]),
    "a wrong affine": _nifti_field(
        [(252, "h"), (254, "h"), *((76 + 4 * n, "f") for n in range(8)), *((280 + 4 * n, "f") for n in range(12))],
        [float("nan"), float("inf"), 0.0, -1.0, 1e-30, 1e30],
    ),
}  # fmt: skip


@functools.cache
def _deflated(size: int) -> bytes:
    """A raw deflate stream of so many zero bytes."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = b"\0" * 2**20
    return b"".join([*(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


def _deflated_dicom(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    del rng
    content = seeds()["DeflatedExplicitVRLittleEndian"]
    start = 144 + int.from_bytes(content[140:144], "little")
    return "DICOM", ".dcm", content[:start] + _deflated(bomb)


def _zip_bomb(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    """One deflate stream in several members, as much as declared or declared as less."""
    stream, count, honest = _deflated(bomb), int(rng.integers(1, 9)), rng.random() < 0.5
    size = bomb if honest else int(rng.integers(1, 10**6))
    content, directory = b"", b""
    for index in range(count):
        name = f"{index}.dcm".encode()
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(stream), size, len(name), 0)
        directory += b"PK\x01\x02\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(content)) + name
        content += b"PK\x03\x04" + fields + name + stream
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(content), 0)
    return "zip", ".zip", content + directory + b"PK\x05\x06" + end


def _many_members(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    del bomb
    return "zip", ".zip", zipped({f"{index}": b"x" for index in range(int(rng.choice([300, 20_001])))})


def _nested_zip(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    del bomb
    content = seeds()["zip"]
    for depth in range(int(rng.integers(1, 20))):
        content = zipped({f"{depth}.zip": content, "../../evil.dcm": b"\0" * 128 + b"DICM", "/etc/evil": b""})
    return "zip", ".zip", content


def _gzip_bomb(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    """A gzip that goes on and on, behind a header of NIfTI or none."""
    head = bytearray(seeds()["NIfTI"][:352])
    if rng.random() < 0.5:
        sides = [int(side) for side in rng.choice([1, 512, 1024, 4096, 32767], 3)]
        struct.pack_into("<hhhh", head, 40, 3, *sides)
    content = bytes(head) if rng.random() < 0.8 else b""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    stream = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) + _deflated(bomb)
    return "NIfTI, gzip", ".nii.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stream + b"\0" * 8


def _no_series(rng: np.random.Generator, bomb: int) -> tuple[str, str, bytes]:
    del bomb
    contents = [
        b"", b"no series\n" * 50, rng.bytes(5000), b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + rng.bytes(3000),
        b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04" + rng.bytes(500), b"%PDF-1.7\n" + bytes(2000), b"\0" * 10**6,
        gzip.compress(b"", mtime=0), gzip.compress(rng.bytes(500), mtime=0), seeds()["NIfTI"][:348],
    ]  # fmt: skip
    suffixes = (".dcm", "", ".nii", ".nii.gz", ".zip", ".png")
    return "no series", suffixes[rng.integers(len(suffixes))], contents[rng.integers(len(contents))]


BOMBS: dict[str, Callable[[np.random.Generator, int], tuple[str, str, bytes]]] = {
    "a deflate bomb": _deflated_dicom,
    "a zip bomb": _zip_bomb,
    "many members": _many_members,
    "zips in zips": _nested_zip,
    "a gzip bomb": _gzip_bomb,
    "something else": _no_series,
}
