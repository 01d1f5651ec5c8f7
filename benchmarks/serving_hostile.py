"""What 2,000 good and bad uploads do to the page: does it live, does its memory stay, does it write anything?

    python -m benchmarks.serving_hostile --tflite=models/edge/int8.tflite

The page runs in a process of its own on loopback, with data collection, and with empty folders for its home, its
temporary files and its data. Four clients send uploads of every kind below, in turns. Every good image must be
answered, alone and beside bad ones; no bad one may get a probability; the page must be alive at the end; its
memory must not grow after the first quarter; and no file may be new or changed outside the data folder.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import io
import json
import re
import struct
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import client as http_client
from pathlib import Path

from absl import flags

from benchmarks.server_process import HOST, Server, free_port, running, status_of
from benchmarks.serving_load import multipart, page_arguments
from benchmarks.worker import CHECKOUT
from ladnn_tf import command
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import PNG_SIGNATURE, decode
from serving.collection.store import Collection

USAGE = "python -m benchmarks.serving_hostile --tflite=FILE [--uploads=2000]"
_CLIENTS = 4
_LOOKS = 20  # at the memory
_GROWTH = 1.1  # of the memory from the second quarter to the last that counts as flat: allocators keep some
_TIMEOUT = 300.0  # seconds
CONTRIBUTION = "a contribution"
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

    def attempt(name: str, path: str, form: tuple[bytes, dict[str, str]], verdict: Verdict):
        def run() -> tuple[str, int, str]:
            status, answer = send(port, path, *form)
            return name, status, verdict(status, answer)

        return run

    tried = {}
    for name, (files, good) in hostile_uploads().items():
        form = multipart([("files", file, content) for file, content in files])
        tried[name] = attempt(name, "/diagnose", form, lambda *answer, good=good: judge(*answer, good))
    for name, form in broken_forms().items():
        tried[name] = attempt(name, "/diagnose", form, _refused)
    tried["100 MB"] = attempt("100 MB", "/diagnose", multipart([("files", "huge.png", b"\0" * _HUGE)]), _cut_off)
    for name, form in contributions(consent_of(port)).items():
        verdict = _accepted if name == CONTRIBUTION else _refused
        tried[name] = attempt(name, "/contribute", form, verdict)
    return tried


def broken_forms() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Name -> body and headers of what is no form with files."""
    body, headers = multipart([("files", "slice.png", example_png())])
    return {
        "no boundary": (body, headers | {"Content-Type": "multipart/form-data"}),
        "another boundary": (body, headers | {"Content-Type": "multipart/form-data; boundary=other"}),
        "cut multipart": (body[: len(body) // 2], headers),
        "no form": (b'{"files": []}', headers | {"Content-Type": "application/json"}),
        "nothing": (b"", headers),
    }


def consent_of(port: int) -> str:
    """The hash of the consent text that the page's form sends along.

    Raises:
        ValueError: if the page has no such form.
    """
    with urllib.request.urlopen(f"http://{HOST}:{port}/contribute", timeout=_TIMEOUT) as response:
        found = re.search(r'name="consent" value="(\w+)"', response.read().decode())
    if not found:
        raise ValueError("the page's form for contributions has no consent")
    return found.group(1)


def contributions(consent: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Name -> body and headers of contributions to the data collection, of which `CONTRIBUTION` alone is right.

    Args:
        consent: from `consent_of`.
    """
    agreed = {"consent": consent, "agree": "yes", "covid": "yes", "corner_percent": "10"}
    good, cut = ("files", "slice.png", example_png()), ("files", "cut.png", example_png()[:5000])
    return {
        CONTRIBUTION: multipart([good], **agreed, corner="top_left"),
        "a contribution without consent": multipart([good], **(agreed | {"agree": ""})),
        "a contribution with a cut image": multipart([good, cut], **agreed),
        "a contribution of a zip": multipart([("files", "a.zip", _zip({"1.png": example_png()}))], **agreed),
    }


def _accepted(status: int, body: bytes) -> str:
    return "" if status == http_client.OK else f"status {status} {body[:100]!r}, expected a receipt"


def _refused(status: int, body: bytes) -> str:
    return "" if 400 <= status < 500 else f"status {status} {body[:100]!r}, expected a refusal"


def _cut_off(status: int, body: bytes) -> str:
    # A server that answers before it has read everything may close the connection under the client.
    return "" if status == 0 else _refused(status, body)


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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a storm of uploads did.

    Attributes:
        statuses: (name, status) -> how often.
        wrong: name -> what was wrong with the last such upload.
        memory: of the server in bytes, before the first upload and after every so many.
        ready: whether the page was ready at the end.
        changed: files that are new or changed outside the data folder.
        contributions: that the data collection holds.
    """

    statuses: Mapping[tuple[str, int], int]
    wrong: Mapping[str, str]
    memory: Sequence[int]
    ready: bool
    changed: Sequence[str]
    contributions: int

    @property
    def faults(self) -> list[str]:
        """Everything that should not have happened, a sentence each."""
        found = [f"{name}: {fault}" for name, fault in self.wrong.items()]
        quarter = len(self.memory) // 4
        early, late = max(self.memory[quarter : 2 * quarter]), max(self.memory[-quarter:])
        if late > _GROWTH * early:
            found.append(f"the memory grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
        if not self.ready:
            found.append("the page is not ready any more")
        found += [f"{path} is new or changed" for path in self.changed]
        accepted = self.statuses.get((CONTRIBUTION, http_client.OK), 0)
        if self.contributions != accepted:
            found.append(f"{accepted} contributions got a receipt, {self.contributions} are stored")
        return found


def storm(
    server: Server, port: int, uploads: int
) -> tuple[collections.Counter[tuple[str, int]], dict[str, str], list[int]]:
    """Sends the uploads.

    Returns:
        `statuses`, `wrong` and `memory` of the outcome.
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


def measure(tflite: Path, uploads: int) -> Outcome:
    """Starts the page in an empty place and sends the uploads.

    Args:
        tflite: the page's model.
        uploads: how many.
    """
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        places = {name: Path(temporary) / name for name in ("home", "tmp")}
        for place in places.values():
            place.mkdir()
        elsewhere = {"checkout": CHECKOUT, **places}
        port = free_port()
        arguments = [*page_arguments(tflite, port), f"--data={data}", "--operator=nobody, this is a benchmark"]
        variables = {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]), "PYTHONDONTWRITEBYTECODE": "1"}
        before = watched(elsewhere)
        ready = functools.partial(status_of, port, "/readyz")
        with running("the page", "serving.webapp", arguments, lambda: ready() == 200, variables) as server:
            statuses, wrong, memory = storm(server, port, uploads)
            alive = ready() == 200
        changed = sorted(str(path) for path, state in watched(elsewhere).items() if before.get(path) != state)
        with Collection(data) as collection:
            return Outcome(statuses, wrong, memory, alive, changed, collection.count())


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if anything went wrong."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("tflite", None, "TFLite file of the page", required=True, flag_values=flag_values)
    flags.DEFINE_integer("uploads", 2000, "how many", 40, flag_values=flag_values)
    command.parse(flag_values, argv, USAGE)
    outcome = measure(Path(flag_values.tflite).absolute(), flag_values.uploads)
    for (name, status), count in sorted(outcome.statuses.items()):
        print(f"{count:6} x {status or 'cut':>4}  {name}")
    print(f"\nmemory, MB: {' '.join(f'{resident / 1e6:.0f}' for resident in outcome.memory)}")
    print(f"contributions stored: {outcome.contributions}")
    print(f"new or changed outside the data folder: {', '.join(outcome.changed) or 'nothing'}")
    print(f"ready at the end: {'yes' if outcome.ready else 'no'}")
    print("\n".join(f"WRONG: {fault}" for fault in outcome.faults) or "nothing went wrong")
    return int(bool(outcome.faults))


if __name__ == "__main__":
    command.run(main)
