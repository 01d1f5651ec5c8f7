"""Asks TensorFlow Serving: `python -m serving.client --url=http://localhost:8501 FILE...`.

    from serving.client import connect

    with connect("http://localhost:8501", label="stable") as client:
        for answer in client.predict([Path("slice.png").read_bytes()]):
            print(answer.covid, answer.positive, answer.lesions, answer.abstained, answer.reason, answer.error)

REST needs httpx: `pip install '.[serving]'` in the root of the checkout. grpc://HOST:8500 needs TensorFlow beside
it, which is loaded for such a URL alone: `pip install '.[grpc]'`.
"""

import functools
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ladnn_tf import command
from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.edge_files import list_files, printable, read_image_file
from ladnn_tf.edge_output import table_header, table_row
from serving.clients.errors import ServingError
from serving.clients.output import footer, record_of, write_csv, write_json
from serving.clients.retry import Retry
from serving.clients.serving_client import ServingClient
from serving.clients.transport import CONNECT_TIMEOUT, TIMEOUT, Transport

__all__ = ["ServingClient", "connect", "main"]

USAGE = """python -m serving.client --url=http://HOST:8501 FILE... [--csv=FILE] [--json=FILE]

FILE: PNG or JPEG files, or folders of them (not the folders in them). --url: http, https, grpc or grpcs; REST has
port 8501 of TensorFlow Serving, gRPC has port 8500. Exit status: 0, all answered, abstentions included; 1, an
error, or a file without an answer because of one; 2, an error in the command line; 130, ended by Ctrl-C. --csv and
--json hold what was answered until the end, whatever ended it."""

_GRPC_PORT = 8500
_INTERRUPTED = 130  # as shells have it: 128 and the number of the signal
_WIDEST_FILE = 60  # characters of the table's first column


def connect(
    url: str,
    *,
    model: str = "ladnn",
    label: str = "",
    timeout: float = TIMEOUT,
    connect_timeout: float = CONNECT_TIMEOUT,
    ca_file: str | Path | None = None,
    **options: Any,
) -> ServingClient:
    """Makes a client; nothing is sent before it is asked.

    Args:
        url: `http://HOST:PORT` or `https://...` for REST, `grpc://HOST:PORT` or `grpcs://...` (with TLS) for gRPC.
        model: its name on the server.
        label: of the version to ask; empty for the newest.
        timeout: seconds for a request.
        connect_timeout: seconds for a connection.
        ca_file: certificates (PEM) to trust in place of the system's; for https and grpcs alone.
        options: of `ServingClient`.

    Raises:
        ValueError: if the URL is none of these, a time is not above 0, or `ca_file` cannot be read.
        ImportError: if a package that the URL needs is not installed, with how to install it.
    """
    for name, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
        if not value > 0.0:
            raise ValueError(f"{name} should be above 0. Received: {value}")
    times = {"timeout": timeout, "connect_timeout": connect_timeout}
    return ServingClient(_transport(url, model, ca_file, times), label=label, **options)


def _transport(url: str, model: str, ca_file: str | Path | None, times: dict[str, float]) -> Transport:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url} is no URL ({error})") from error
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise ValueError(
            f"the URL should be http://, https://, grpc:// or grpcs:// and HOST:PORT. Received: {url}"
        )
    if ca_file and parts.scheme in ("http", "grpc"):
        raise ValueError(f"certificates ({ca_file}) are for https:// and grpcs:// alone; the URL is {url}")
    if parts.scheme.startswith("http"):
        from serving.clients.rest import (
            RestTransport,  # what one transport needs, users of the other need not have
        )

        return RestTransport(url, model, ca_file=ca_file, **times)
    if parts.path.strip("/") or parts.username or parts.query or parts.fragment:
        raise ValueError(f"a URL of gRPC should be grpc://HOST:PORT, with nothing else. Received: {url}")
    from serving.clients.grpc_transport import GrpcTransport

    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = f"{host}:{port or _GRPC_PORT}"
    return GrpcTransport(address, model, secure=parts.scheme == "grpcs", ca_file=ca_file, **times)


def answer_files(client: ServingClient, files: Sequence[str], group: int) -> Iterator[tuple[dict[str, Any], Card]]:
    """Answers files, a group at a time, so that any number of them fits into memory.

    If the server fails when some files have been answered, the others get its error.

    Args:
        client: to ask.
        files: names of PNG or JPEG files.
        group: how many are read at a time.

    Yields:
        For each file, in order, its record (`output.record_of`) and the card of the version that answered.

    Raises:
        ServingError: if the server fails before anything is answered.
    """
    last: Answer | None = None
    failure = ""
    for start in range(0, len(files), group):
        names = files[start : start + group]
        if not failure:
            try:
                answers = _answer_group(client, names)
            except ServingError as error:
                if last is None:
                    raise
                failure = f"the server failed before this file was answered: {error}"
        if failure:
            answers = [Answer(last.card, last.card_sha256, error=failure)] * len(names)
        for name, last in zip(names, answers, strict=True):
            yield record_of(name, last), last.card


def _answer_group(client: ServingClient, names: Sequence[str]) -> list[Answer]:
    contents: dict[int, bytes] = {}
    errors: dict[int, str] = {}
    for place, name in enumerate(names):
        try:
            image = read_image_file(Path(name), name)
        except OSError as error:
            errors[place] = f"cannot be read ({error.strerror or error})"
            continue
        if image.refused:
            errors[place] = image.refused
        else:
            contents[place] = image.content
    answers = dict(zip(contents, client.predict(list(contents.values())), strict=True))
    if errors:
        card = client.card()
        answers |= {place: Answer(*card, error=error) for place, error in errors.items()}
    return [answers[place] for place in range(len(names))]


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("url", None, "of the server", required=True, flag_values=values)
    flags.DEFINE_string("model", "ladnn", "the model's name on the server", flag_values=values)
    flags.DEFINE_string(
        "label", "", "of the version to ask, such as stable (default: the newest)", flag_values=values
    )
    flags.DEFINE_float("timeout", TIMEOUT, "seconds for a request", lower_bound=0.001, flag_values=values)
    flags.DEFINE_string("ca_file", None, "certificates (PEM) to trust, for https and grpcs", flag_values=values)
    flags.DEFINE_integer("batch_size", 8, "most images in a request", lower_bound=1, flag_values=values)
    flags.DEFINE_string("csv", None, "write the answers to this CSV file", flag_values=values)
    flags.DEFINE_string("json", None, "write the answers to this JSON file", flag_values=values)
    flags.DEFINE_boolean("allow_unfit", False, "answer with an unfit model too", flag_values=values)
    flags.DEFINE_boolean(
        "check",
        True,
        "give a picture that is no chest-CT slice its reason instead of an answer, which is no error (the exit "
        "status stays 0); --nocheck asks the model all the same",
        flag_values=values,
    )
    return values


def main(argv: list[str], retry: Retry | None = None) -> int:
    """The command.

    Args:
        argv: as `sys.argv`.
        retry: how what is unavailable is tried again; by default as `ServingClient` does.

    Returns:
        The exit status: 1 if a file could not be read or answered, 130 after Ctrl-C. An abstention is an answer.
    """
    values = _flags()
    names = command.parse(values, argv, USAGE, positional=True)
    if not names:
        command.usage_error("no image files given", USAGE)
    for output in filter(None, (values.csv, values.json)):
        if not Path(output).absolute().parent.is_dir():
            raise ValueError(f"{output} cannot be written: there is no folder {Path(output).absolute().parent}")
    files = list_files(names, functools.partial(print, file=sys.stderr))
    try:
        client = connect(
            values.url,
            model=values.model,
            label=values.label,
            timeout=values.timeout,
            ca_file=values.ca_file,
            batch_size=values.batch_size,
            allow_unfit=values.allow_unfit,
            check=values.check,
            retry=retry,
        )
    except ImportError as error:  # it says what to install, which is all that is wrong
        raise ValueError(str(error)) from error
    records: list[dict[str, Any]] = []
    cards: dict[str, Card] = {}  # by their SHA-256, in the order in which they answered
    interrupted = False
    try:
        with client:
            card, _ = client.card()
            width = min(max(4, *(len(printable(file)) for file in files)), _WIDEST_FILE)
            print(table_header(card, width), flush=True)
            for record, card in answer_files(client, files, values.batch_size):
                records.append(record)
                cards.setdefault(record["card_sha256"], card)
                print(table_row(record, width), flush=True)
    except KeyboardInterrupt:
        interrupted = True
        print(f"interrupted: {len(records):,} of {len(files):,} files are answered", file=sys.stderr)
    finally:  # whatever ended it, hours of answers should not be lost
        written = _write(records, list(cards.values()), values) if records else []
    if records:
        print(footer(list(cards.values())))
    for output in written:
        print(f"written: {output}")
    if interrupted:
        return _INTERRUPTED
    return 1 if any(record["error"] for record in records) else 0


def _write(records: Sequence[dict[str, Any]], cards: Sequence[Card], values: flags.FlagValues) -> list[str]:
    """Writes what --csv and --json ask for; returns the names of the files."""
    outputs = [(file, write) for file, write in ((values.csv, write_csv), (values.json, write_json)) if file]
    for file, write in outputs:
        write(records, cards, file)
    return [file for file, _ in outputs]


if __name__ == "__main__":
    command.run(main)
