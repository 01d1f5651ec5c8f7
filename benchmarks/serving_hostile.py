"""What 2,000 good and bad uploads do to the page: does it live, does its memory stay, does it write anything?

    python -m benchmarks.serving_hostile --tflite=models/edge/int8.tflite

The page runs in a process of its own on loopback, with data collection, and with empty folders for its home, its
temporary files and its data. Four clients send uploads of every kind below, in turns. Every good image must be
answered, alone and beside bad ones; no bad one may get a probability; the page must be alive at the end; its
memory must not grow after the first quarter; and no file may be new or changed outside the data folder.
"""

import collections
import concurrent.futures
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from http import client as http_client
from pathlib import Path

from absl import flags

from benchmarks.server_process import HOST, Server, free_port, running, status_of
from benchmarks.serving_load import multipart, page_arguments
from benchmarks.worker import CHECKOUT
from ladnn_tf import command
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import PNG_SIGNATURE, decode

USAGE = "python -m benchmarks.serving_hostile --tflite=FILE [--uploads=2000]"
_CLIENTS = 4
_LOOKS = 20  # at the memory
_GROWTH = 1.1  # of the memory from the second quarter to the last that counts as flat: allocators keep some
_TIMEOUT = 300.0  # seconds
_HUGE = 100 * 10**6  # bytes

Files = list[tuple[str, bytes]]
Verdict = Callable[[int, bytes], str]
"""From status and body of an answer to what is wrong with it, or empty."""


def hostile_uploads(bomb: int = 2**30) -> dict[str, tuple[Files, int]]:
    """The kinds of uploads.

    Args:
        bomb: bytes that a zip of four files unpacks to.

    Returns:
        Name -> the files, each with its name, and how many of their images are good.
    """
    good = example_png()
    jpeg = _jpeg(good)
    return {
        "a good PNG": ([("slice.png", good)], 1),
        "a good JPEG": ([("slice.jpg", jpeg)], 1),
        "good and truncated": ([("a.png", good), ("b.png", good[: len(good) // 2]), ("c.jpg", jpeg)], 2),
        "a truncated PNG": ([("slice.png", good[:-40])], 0),
        "a truncated JPEG": ([("slice.jpg", jpeg[: len(jpeg) // 3])], 0),
        "0 bytes": ([("slice.png", b"")], 0),
        "text called .png": ([("slice.png", b"no picture\n" * 100)], 0),
        "PDF": ([("report.pdf", b"%PDF-1.7\n" + b"\0" * 2**20)], 0),
        "DICOM": ([("slice.dcm", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0" * 50)], 0),
        "900 megapixels, header only": ([("bomb.png", _png(30_000, 30_000, b""))], 0),
        "900 megapixels, whole": ([("bomb.png", _png(30_000, 30_000, _black(30_000, 30_000)))], 0),
        "a zip of two": ([("two.zip", _zip({"1.png": good, "folder/2.jpg": jpeg}))], 2),
        "a zip that leads out": (
            [("out.zip", _zip({"../../../../tmp/evil.png": good, "/etc/evil.png": b"x", "..\\evil.png": good}))], 2
        ),
        "a zip bomb": ([("bomb.zip", _zip({f"{n}.png": b"\0" * (bomb // 4) for n in range(4)}))], 0),
        "a zip in a zip": ([("nested.zip", _zip({"inner.zip": _zip({"1.png": good})}))], 0),
        "a zip of 5,000 files": ([("many.zip", _zip({f"{n}.png": b"x" for n in range(5000)}))], 0),
        "a cut zip": ([("cut.zip", _zip({"1.png": good})[:-30])], 0),
        "names that lead out": ([("../../tmp/evil.png", good), ("C:\\evil.png", good), ("/etc/x.png", good)], 3),
        "a name of 5,000 signs": ([("n" * 5000 + "<script>.png", good)], 1),
    }  # fmt: skip


def _jpeg(png: bytes) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(decode(png)).save(content, "JPEG", quality=95)
    return content.getvalue()


def _zip(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def _png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of one bit a pixel with the compressed lines `data`."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _black(width: int, height: int) -> bytes:
    packer = zlib.compressobj(9)
    line = b"\0" * (1 + width // 8)  # the filter's number, then eight pixels a byte
    return b"".join([*(packer.compress(line) for _ in range(height)), packer.flush()])


def send(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Sends one POST on a connection of its own.

    Returns:
        Status and body of the answer; 0 and the error's text if the connection broke.
    """
    connection = http_client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
    try:
        connection.request("POST", path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http_client.HTTPException) as error:
        return 0, str(error).encode()
    finally:
        connection.close()


def judge(status: int, body: bytes, good: int) -> str:
    """What is wrong with the answer to an upload of which so many images are good; empty if nothing is."""
    if status == 0:
        return f"the connection broke: {body.decode()}"
    if status >= 500:
        return f"status {status}"
    if status != 200:
        return f"status {status}, but {good} images are good" if good else ""
    results = json.loads(body)["results"]
    answered = sum(result["covid"] is not None for result in results)
    return "" if answered == good else f"{answered} answers, but {good} images are good"


def attempts(port: int) -> dict[str, Callable[[], tuple[str, int, str]]]:
    """Everything that is tried: name -> a function that tries it and says name, status and what is wrong."""

    def attempt(name: str, path: str, body: bytes, headers: Mapping[str, str], verdict: Verdict):
        def run() -> tuple[str, int, str]:
            status, answer = send(port, path, body, headers)
            return name, status, verdict(status, answer)

        return run

    def refused(status: int, body: bytes) -> str:
        return "" if 400 <= status < 500 else f"status {status} {body[:100]!r}, expected a refusal"

    def cut_off(status: int, body: bytes) -> str:
        # A server that answers before it has read everything may close the connection under the client.
        return "" if status == 0 else refused(status, body)

    tried = {}
    for name, (files, good) in hostile_uploads().items():
        body, headers = multipart([("files", file, content) for file, content in files])
        tried[name] = attempt(name, "/diagnose", body, headers, lambda *answer, good=good: judge(*answer, good))
    body, headers = multipart([("files", "slice.png", example_png())])
    broken = {
        "no boundary": (body, headers | {"Content-Type": "multipart/form-data"}),
        "another boundary": (body, headers | {"Content-Type": "multipart/form-data; boundary=other"}),
        "cut multipart": (body[: len(body) // 2], headers),
        "no form": (b'{"files": []}', headers | {"Content-Type": "application/json"}),
        "nothing": (b"", headers),
    }
    for name, (content, about) in broken.items():
        tried[name] = attempt(name, "/diagnose", content, about, refused)
    body, headers = multipart([("files", "huge.png", b"\0" * _HUGE)])
    tried["100 MB"] = attempt("100 MB", "/diagnose", body, headers, cut_off)
    name = "a contribution without consent"
    body, headers = multipart([("files", "slice.png", example_png())])
    tried[name] = attempt(name, "/contribute", body, headers, refused)
    return tried


def watched(folders: Mapping[str, Path]) -> dict[Path, tuple[int, int]]:
    """Size and time of change of every file in some folders, but for git's and the packages'."""
    found = {}
    for folder in folders.values():
        for path in _files(folder):
            status = path.lstat()
            found[path] = status.st_size, status.st_mtime_ns
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in (".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "runs", "models", "data"):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def storm(server: Server, port: int, uploads: int) -> tuple[collections.Counter, dict[str, str], list[int]]:
    """Sends the uploads.

    Returns:
        (name, status) -> how often; name -> what was wrong with the last such upload; the memory in bytes, from
        before the first upload on, after every so many.
    """
    kinds = list(attempts(port).values())
    statuses: collections.Counter[tuple[str, int]] = collections.Counter()
    wrong: dict[str, str] = {}
    memory = [server.resident_memory]
    step = max(1, uploads // _LOOKS)
    with concurrent.futures.ThreadPoolExecutor(_CLIENTS) as clients:
        for start in range(0, uploads, step):
            turns = range(start, min(start + step, uploads))
            for name, status, fault in clients.map(lambda turn: kinds[turn % len(kinds)](), turns):
                statuses[name, status] += 1
                if fault:
                    wrong[name] = fault
            memory.append(server.resident_memory)
    return statuses, wrong, memory


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if anything went wrong."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("tflite", None, "TFLite file of the page", required=True, flag_values=flag_values)
    flags.DEFINE_integer("uploads", 2000, "how many", 40, flag_values=flag_values)
    command.parse(flag_values, argv, USAGE)
    with tempfile.TemporaryDirectory() as temporary:
        places = {name: Path(temporary) / name for name in ("home", "tmp", "data")}
        for place in places.values():
            place.mkdir()
        elsewhere = {"checkout": CHECKOUT, **places}
        data = elsewhere.pop("data")
        port = free_port()
        arguments = [*page_arguments(Path(flag_values.tflite).absolute(), port), f"--data={data}"]
        variables = {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]), "PYTHONDONTWRITEBYTECODE": "1"}
        before = watched(elsewhere)
        with running("the page", "serving.webapp", arguments, lambda: status_of(port, "/readyz") == 200,
                     variables) as server:  # fmt: skip
            statuses, wrong, memory = storm(server, port, flag_values.uploads)
            alive = status_of(port, "/readyz") == 200
            threads = server.threads
        changed = sorted(str(path) for path, state in watched(elsewhere).items() if before.get(path) != state)
        stored = sorted(str(path.relative_to(data)) for path in _files(data))
    return _report(statuses, wrong, memory, alive, threads, changed, stored)


def _report(statuses, wrong, memory, alive, threads, changed, stored) -> int:
    for (name, status), count in sorted(statuses.items()):
        print(f"{count:6} x {status or 'cut':>4}  {name}{'  WRONG: ' + wrong[name] if name in wrong else ''}")
    quarter = len(memory) // 4
    early, late = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    print(
        f"\nmemory, MB: {' '.join(f'{resident / 1e6:.0f}' for resident in memory)}; {threads} threads at the end"
    )
    print(f"the most in the second quarter {early / 1e6:.0f} MB, in the last {late / 1e6:.0f} MB")
    print(f"ready at the end: {'yes' if alive else 'NO'}")
    print(f"new or changed outside the data folder: {', '.join(changed) or 'nothing'}")
    print(f"in the data folder: {', '.join(stored) or 'nothing'}")
    return int(bool(wrong) or not alive or bool(changed) or late > _GROWTH * early)


if __name__ == "__main__":
    command.run(main)
