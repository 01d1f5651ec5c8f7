"""TensorFlow Serving's REST interface, by httpx. It needs no TensorFlow.

What it needs: `pip install '.[serving]'` in the root of the checkout.

Requests are in the column format ("inputs"), the images in base64:

    POST /v1/models/ladnn/versions/3:predict
    {"signature_name": "serving_default", "inputs": {"image_bytes": [{"b64": "iVBORw0..."}]}}
    -> {"outputs": {"covid": [0.83], "lesions": [[0.9, 0.2, 0.1, 0.4, 0.0]]}}
"""

import base64
import datetime
import email.utils
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving.clients.errors import InvalidRequest, NotFound, ServerFailed, ServingError, TimedOut, Unavailable
from serving.clients.transport import CONNECT_TIMEOUT, TIMEOUT, overloaded, quoted, resolving

try:
    import httpx
except ImportError as error:
    raise ImportError(
        f"REST needs httpx ({error}): pip install '.[serving]' in the root of the checkout"
    ) from error

_ERRORS = {400: InvalidRequest, 404: NotFound, 408: TimedOut, 503: Unavailable, 504: TimedOut}

ANSWER_BYTES = 64 * 2**20
"""Most bytes of an answer, once it is decompressed; with the maps of a full request it has less than a million."""

# The server gives the only output of a signature without its name.
_ONLY_OUTPUT = {"card": "card"}
_ONLY_PREDICTION = "covid"


class RestTransport:
    """A model behind REST; see `transport.Transport`.

    Args:
        url: of the server, such as `http://localhost:8501`; a path before `/v1` is kept, a user and password are
            sent (basic authentication) and never shown. Proxies that the environment names (`HTTPS_PROXY`) are
            not used, nor is `.netrc`: patients' images go to the server itself.
        model: its name there.
        timeout: seconds for a request; it is looked at whenever a part of the answer arrives, and a connection
            that stalls ends after as many.
        connect_timeout: seconds for the connection.
        ca_file: certificates (PEM) to trust in place of the system's; for `https` alone.
        client: to send with, in place of an own one; it stays open.
        clock: tells seconds.

    Raises:
        ValueError: if `url` is none of http or https, or has a query or a fragment, or `ca_file` cannot be read.
    """

    def __init__(
        self,
        url: str,
        model: str = "ladnn",
        *,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        ca_file: str | Path | None = None,
        client: httpx.Client | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url} is no URL ({error})") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"the URL of a REST server should be http://HOST:PORT or https://... Received: {url}")
        if "?" in url or "#" in url:
            raise ValueError(
                "the URL of a REST server should have no query (?) and no fragment (#), which cannot be a part of "
                f"its requests. Received: {parsed.copy_with(userinfo=b'')}"
            )
        self._url = str(parsed).rstrip("/")
        self._address = str(parsed.copy_with(userinfo=b"")).rstrip("/")
        self._model = model
        self._path = f"/v1/models/{urllib.parse.quote(model, safe='')}"
        self._timeout = timeout
        self._connect_timeout = min(connect_timeout, timeout)
        self._clock = clock
        self._own = client is None
        self._client = client or httpx.Client(verify=_certificates(ca_file), trust_env=False)

    def predict(
        self, signature: str, inputs: dict[str, list[bytes]], version: int | None, label: str
    ) -> dict[str, np.ndarray]:
        """As `Transport.predict`."""
        encoded = {
            name: [{"b64": base64.b64encode(value).decode("ascii")} for value in values]
            for name, values in inputs.items()
        }
        content = json.dumps({"signature_name": signature, "inputs": encoded}).encode("ascii")
        path = f"{self._path}{_version_path(version, label)}:predict"
        outputs = self._member(self._exchange("POST", path, content), "outputs")
        if not isinstance(outputs, dict):
            outputs = {_ONLY_OUTPUT.get(signature, _ONLY_PREDICTION): outputs}
        return {name: self._array(name, values) for name, values in outputs.items()}

    def served_version(self, label: str) -> int:
        """As `Transport.served_version`, from the model's metadata, for which the server resolves labels."""
        with resolving(self._address, self._model, label):
            metadata = self._exchange("GET", f"{self._path}{_version_path(None, label)}/metadata")
        return self._integer(self._member(self._member(metadata, "model_spec"), "version"))

    def states(self) -> dict[int, str]:
        """As `Transport.states`."""
        with resolving(self._address, self._model, ""):
            found = self._member(self._exchange("GET", self._path), "model_version_status")
        if not isinstance(found, list):
            raise self._foreign()
        return {
            self._integer(self._member(status, "version")): str(self._member(status, "state")) for status in found
        }

    def close(self) -> None:
        """As `Transport.close`; a client that was given stays open."""
        if self._own:
            self._client.close()

    def _exchange(self, method: str, path: str, content: bytes | None = None) -> Any:
        """Sends a request and returns the JSON of its answer."""
        headers = {"Content-Type": "application/json"} if content is not None else {}
        timeout = httpx.Timeout(self._timeout, connect=self._connect_timeout)
        url = f"{self._url}{path}"
        end = self._clock() + self._timeout
        try:
            with self._client.stream(method, url, content=content, headers=headers, timeout=timeout) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > ANSWER_BYTES:
                        raise self._foreign(f" (more than {ANSWER_BYTES:,} bytes)")
                    if self._clock() > end:
                        raise httpx.ReadTimeout("the answer comes too slowly")
        except httpx.ConnectTimeout as error:
            raise TimedOut(f"{self._address}: no connection within {self._connect_timeout:g} s") from error
        except httpx.TimeoutException as error:
            raise TimedOut(f"{self._address}: no whole answer within {self._timeout:g} s") from error
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise self._foreign(f" ({error})") from error
        if response.status_code != httpx.codes.OK:
            raise self._error(response, bytes(body))
        try:
            return json.loads(body)
        except ValueError as error:
            raise self._foreign(f" ({error})") from error

    def _unreachable(self, error: httpx.TransportError) -> ServingError:
        words = str(error) or type(error).__name__
        refused = _tls_refusal(error)
        if isinstance(refused, ssl.SSLCertVerificationError):
            return ServerFailed(
                f"{self._address}: the server's certificate is not accepted ({words}); give the certificates of "
                "whoever signed it (--ca_file), and the name that it was made out for"
            )
        if refused:
            return ServerFailed(
                f"{self._address}: no TLS ({words}); is this a port of http:// instead of https://?"
            )
        if isinstance(error, httpx.ProtocolError | httpx.UnsupportedProtocol) and not _is_broken_off(words):
            return ServerFailed(
                f"{self._address} does not speak HTTP as expected ({words}); is this its REST port, and does it "
                "want https:// instead of http://?"
            )
        return Unavailable(
            f"{self._address} cannot be reached ({words}); does TensorFlow Serving run there, and is this its "
            "REST port?"
        )

    def _error(self, response: httpx.Response, body: bytes) -> ServingError:
        words = _words(body)
        status = f"{response.status_code} {response.reason_phrase}".strip()
        message = f"{self._address} answers {status}{quoted(words)}"
        kind = _ERRORS.get(response.status_code, ServerFailed)
        if kind is Unavailable:
            return Unavailable(message, words, _retry_after(response.headers.get("Retry-After", "")))
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return overloaded(self._address, words)
        return kind(message, words)

    def _foreign(self, detail: str = "") -> ServerFailed:
        return ServerFailed(
            f"{self._address} does not answer as TensorFlow Serving does{detail}; is this its REST port?"
        )

    def _member(self, document: Any, name: str) -> Any:
        if not isinstance(document, dict) or name not in document:
            raise self._foreign(f" (no {name!r} in its answer)")
        return document[name]

    def _integer(self, value: Any) -> int:
        try:
            return int(value)
        except (TypeError, ValueError) as error:
            raise self._foreign(f" ({error})") from error

    def _array(self, name: str, values: Any) -> np.ndarray:
        try:
            if isinstance(values, list) and values and isinstance(values[0], str | dict):
                array = np.empty(len(values), object)
                array[:] = [_string(value) for value in values]
                return array
            return np.asarray(values, np.float32)
        except (TypeError, ValueError, LookupError) as error:
            raise self._foreign(f" ({name}: {error})") from error


def _tls_refusal(error: BaseException | None) -> ssl.SSLError | None:
    """The error of TLS that is the cause of another one; None if it is a connection that broke, or no TLS."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__  # httpcore cuts the chain of the causes
    broken = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    return None if isinstance(error, broken) else error


def _is_broken_off(words: str) -> bool:
    """Whether an error of the protocol, which these are for httpx, is a connection that the server closed."""
    return "disconnected" in words or "closed connection" in words


def _certificates(ca_file: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise ValueError(f"{ca_file} cannot be read as certificates in PEM ({error})") from error


def _version_path(version: int | None, label: str) -> str:
    if version is not None:
        return f"/versions/{version}"
    return label and f"/labels/{urllib.parse.quote(label, safe='')}"


def _string(value: str | dict[str, str]) -> bytes:
    return value.encode("utf-8") if isinstance(value, str) else base64.b64decode(value["b64"], validate=True)


def _words(body: bytes) -> str:
    """The server's message; of a page of HTML, which some proxy has sent, nothing."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text


def _retry_after(header: str) -> float | None:
    """Seconds from now, from a number of seconds or a date (RFC 9110, 10.2.3); None if it is neither."""
    if header.isdecimal():
        return float(header)
    try:
        date = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    date = date.replace(tzinfo=date.tzinfo or datetime.UTC)
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())
