"""The settings of the diagnosis page: what the flags of `python -m serving.webapp` say, checked."""

import dataclasses
import ipaddress
import math
import re
from pathlib import Path

from ladnn_tf.data.preprocess import MAX_PIXELS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MEGABYTE = 2**20

_SHORTEST_TOKEN = 16  # characters; `openssl rand -hex 32` gives 64
_LONGEST_OPERATOR = 500  # characters
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2: token

_WHOLE_NUMBERS = {
    "port": (0, 65_535),
    "rate_limit": (0, 1_000_000),
    "max_images": (1, 10_000),
    "max_image_mb": (1, 1024),
    "max_request_mb": (1, 4096),
    "max_unpacked_mb": (1, 4096),
    "max_slices": (1, 4000),
    "max_series_mb": (1, 4096),
    "max_pixels": (32 * 32, MAX_PIXELS),
    "max_uploads": (1, 10_000),
    "upload_memory_mb": (1, 2**20),
    "max_connections": (1, 100_000),
    "queue": (1, 100_000),
    "series_queue": (1, 10_000),
    "workers": (1, 256),
}
_NUMBERS = {
    "upload_timeout": (0.01, 86_400.0),
    "session_hours": (0.01, 24.0 * 366),
    "ready_seconds": (0.0, 3600.0),
    "stop_seconds": (0.0, 3600.0),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the page behaves, whatever predictor it has.

    Attributes:
        host: name or address that is listened on.
        port: that is listened on; 0 lets the system choose.
        allowed_hosts: names or addresses, without a port, by which the page may be asked for, besides those of
            loopback and `host` itself.
        token: that a login needs; empty for none. It is not shown by `repr`.
        session_hours: for how long a login lasts.
        user_header: name of the header in which a proxy gives the user; empty for none.
        trusted_proxies: networks whose `user_header`, X-Forwarded-For and X-Forwarded-Proto count.
        operator: who runs the data collection, name and contact in words; those who contribute are shown it.
        rate_limit: requests a minute and client; 0 for no limit.
        max_request_mb: size of an upload, MiB.
        max_image_mb: size of one image file, MiB; files of DICOM and NIfTI may be larger.
        max_unpacked_mb: what the zip files of an upload may hold together, MiB.
        max_images: files of an upload that are no slices of a series, those in zip files included.
        max_slices: of the series of an upload together; and DICOM files and pictures of one person, which may have
            one slice each.
        max_series_mb: that the series of an upload may take in memory once they are read, four bytes a pixel, MiB.
            They do not count as `upload_memory_mb`; one upload's series are read at a time.
        max_pixels: of one image.
        max_uploads: that are received and answered at a time; those of one client are at most half of them.
        upload_memory_mb: that these uploads may hold together, as they are sent and unpacked, MiB; those of one
            client at most half of it.
        max_connections: that are open at a time.
        upload_timeout: seconds for an upload to arrive, and for a client to take the answer.
        queue: images that wait for a worker.
        series_queue: uploads with series that wait for their turn.
        workers: threads that decode and answer images; series have one of their own.
        series_folder: where the files of a series lie while they are read; None for the system's folder of
            temporary files.
        audit_log: file of the audit log; None for stderr.
        audit_key: of the hashes of images in the audit log; empty for one that is derived from the token or, where
            there is none, is new with every start. It is not shown.
        ready_seconds: for which the outcome of the readiness check is kept.
        stop_seconds: that requests get to finish when the page is ended.

    Raises:
        ValueError: naming the flag, if a value is out of its range or two contradict each other.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    token: str = dataclasses.field(default="", repr=False)
    session_hours: float = 12.0
    user_header: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    operator: str = ""
    rate_limit: int = 120
    max_request_mb: int = 64
    max_image_mb: int = 16
    max_unpacked_mb: int = 128
    max_images: int = 64
    max_slices: int = 1024
    max_series_mb: int = 512
    max_pixels: int = 4096 * 4096
    max_uploads: int = 128
    upload_memory_mb: int = 512
    max_connections: int = 512
    upload_timeout: float = 120.0
    queue: int = 256
    series_queue: int = 8
    workers: int = 2
    series_folder: Path | None = None
    audit_log: Path | None = None
    audit_key: bytes = dataclasses.field(default=b"", repr=False)
    ready_seconds: float = 5.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"--{name} should be a whole number from {low} to {high}. Received: {value!r}")
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
                raise ValueError(f"--{name} should be a number from {low:g} to {high:g}. Received: {value!r}")
        if self.queue < self.max_images:
            raise ValueError(
                f"--queue={self.queue} should be at least --max_images={self.max_images}: an upload that is "
                "allowed could otherwise never be answered"
            )
        if self.max_image_mb > self.max_request_mb:
            raise ValueError(
                f"--max_image_mb={self.max_image_mb} should be at most --max_request_mb={self.max_request_mb}"
            )
        if self.upload_memory_mb < 2 * (self.max_request_mb + self.max_unpacked_mb):
            raise ValueError(
                f"--upload_memory_mb={self.upload_memory_mb} should be at least twice --max_request_mb="
                f"{self.max_request_mb} and --max_unpacked_mb={self.max_unpacked_mb} together: a client gets half"
            )
        # The wide space of Chinese is no printable character to Python.
        if len(self.operator) > _LONGEST_OPERATOR or not self.operator.replace("\u3000", " ").isprintable():
            raise ValueError(
                f"--operator should be one line of at most {_LONGEST_OPERATOR} printable characters: who runs the "
                f"data collection, name and contact. Received: {self.operator[:50]!r}"
            )
        self._check_access()

    def _check_access(self) -> None:
        if self.token and (
            len(self.token) < _SHORTEST_TOKEN or not self.token.isascii() or not self.token.isprintable()
        ):
            raise ValueError(
                f"the token of --token_file should be {_SHORTEST_TOKEN} or more printable ASCII characters, as "
                "from `openssl rand -hex 32`"
            )
        if self.token and self.user_header:
            raise ValueError("give either --token_file or --user_header: of two ways in the weaker one counts")
        if self.user_header and not _HEADER_NAME.fullmatch(self.user_header):
            raise ValueError(
                "--user_header should be the name of a header, such as X-Remote-User. Received: "
                f"{self.user_header!r}"
            )
        if self.user_header and not self.trusted_proxies:
            raise ValueError(
                "--user_header needs --trusted_proxy=CIDR, the proxy's own address: from anybody else the header "
                "proves nothing"
            )
        if not self.has_login and not is_loopback(self.host):
            raise ValueError(
                f"--host={self.host} can be reached from other machines, so there must be a login: give "
                "--token_file=FILE, or --user_header=NAME with --trusted_proxy=CIDR; without a login the page "
                "runs on --host=127.0.0.1 only"
            )
        if not self.has_login:
            self._check_is_reached_from_here_alone()

    def _check_is_reached_from_here_alone(self) -> None:
        if self.trusted_proxies:
            raise ValueError(
                "--trusted_proxy needs a login: through a proxy others reach the page, too; give "
                "--token_file=FILE, or --user_header=NAME"
            )
        for name in self.allowed_hosts:
            if not is_loopback(name.lower()):
                raise ValueError(
                    f"--allowed_host={name} needs a login: without one the page is for this machine alone, by its "
                    "own names; give --token_file=FILE, or --user_header=NAME with --trusted_proxy=CIDR"
                )

    @property
    def has_login(self) -> bool:
        """Whether nobody gets in unknown."""
        return bool(self.token or self.user_header)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_network(text: str) -> Network:
    """Reads the value of `--trusted_proxy`.

    Args:
        text: an address, or a network in CIDR form.

    Raises:
        ValueError: if it is neither, or holds every address there is.
    """
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ValueError(
            f"--trusted_proxy should be an address or a network such as 10.0.0.0/24 ({error}). Received: {text!r}"
        ) from error
    if network.prefixlen == 0:
        raise ValueError(f"--trusted_proxy={text} trusts everybody, so that anybody could claim to be any user")
    return network


def read_token(path: str | Path) -> str:
    """Reads the token from its file: one line.

    Raises:
        ValueError: if the file cannot be read or does not hold exactly one line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token_file={path} cannot be read ({error})") from error
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"--token_file={path} should hold one line, the token. Received: {len(lines)} lines")
    return lines[0]
