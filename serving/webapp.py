"""The diagnosis page: `python -m serving.webapp --model=models/edge/int8.tflite`.

By default it answers with a TFLite file in this process, on http://127.0.0.1:8000, for this machine alone. See
docs/serving.md for TensorFlow Serving behind it, logins, proxies, and what to watch.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from ladnn_tf import command
from ladnn_tf.edge_predictor import EdgePredictor
from serving.collection.store import Collection
from serving.page import audit_log, settings
from serving.page.app import create_app
from serving.page.predictors import EmbeddedPredictor, Predictor, RemotePredictor
from serving.page.server import config_of, serve
from serving.page.settings import Settings

logger = logging.getLogger("ladnn_tf.serving")

USAGE = """python -m serving.webapp --model=FILE.tflite [--token_file=FILE --host=0.0.0.0 ...]
       python -m serving.webapp --serving_url=http://HOST:8501 [--serving_label=stable] [...]
       python -m serving.webapp [...] --data=DIR --operator='NAME, CONTACT'"""

_SETTINGS = {
    "host": "name or address to listen on; other than loopback only with a login",
    "port": "port to listen on",
    "session_hours": "for how long a login lasts",
    "operator": "who runs the data collection: name and contact, in words; --data needs it",
    "user_header": "header in which a proxy gives the user; it counts from --trusted_proxy alone",
    "rate_limit": "requests a minute and client; 0 for no limit",
    "max_request_mb": "most MiB of an upload",
    "max_image_mb": "most MiB of one image file; a DICOM or NIfTI file may have more",
    "max_unpacked_mb": "most MiB that the zip files of an upload may hold",
    "max_images": "most files of an upload that are no slices of a series, those in zip files included",
    "max_slices": "most DICOM files, or pictures of one person, of an upload; most slices of its series together",
    "max_series_mb": "most MiB of memory for the series of an upload, as they are read: 4 bytes a pixel",
    "max_pixels": "most pixels of an image",
    "max_uploads": "most uploads at a time",
    "upload_memory_mb": "most MiB that all uploads together may hold in memory; those of one client half of it",
    "max_connections": "most connections at a time",
    "upload_timeout": "seconds for an upload to arrive, and for a client to take its answer",
    "queue": "images that may wait for a worker; more are answered by 503",
    "series_queue": "uploads with series that may wait; more are answered by 503",
    "workers": "threads that decode and answer images",
    "ready_seconds": "seconds for which the outcome of /readyz is kept",
    "stop_seconds": "seconds that requests get to finish after SIGTERM",
}
"""The flags that are settings as they stand, and what they say."""


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the page."""
    string, boolean = flags.DEFINE_string, flags.DEFINE_boolean
    string(
        "model", None, "TFLite file of python -m export.tflite, to answer in this process", flag_values=flag_values
    )
    flags.DEFINE_integer("threads", None, "CPU threads of --model (default: LiteRT's)", flag_values=flag_values)
    string("serving_url", None, "URL of TensorFlow Serving, in place of --model", flag_values=flag_values)
    string("serving_model", "ladnn", "name of the model there", flag_values=flag_values)
    string("serving_label", "", "label of the version to ask; empty for the newest", flag_values=flag_values)
    string("serving_ca_file", None, "certificates (PEM) to trust there", flag_values=flag_values)
    flags.DEFINE_float("serving_timeout", 30.0, "seconds for an answer from there", flag_values=flag_values)
    boolean("check", True, "abstain from what is no chest-CT slice", flag_values=flag_values)
    boolean("allow_unfit", False, "answer with an unfit model too; its answers say so", flag_values=flag_values)
    string("data", None, "folder of the data collection, which this switches on", flag_values=flag_values)
    string("database", None, "URL of its database (default: SQLite in the folder)", flag_values=flag_values)
    string("token_file", None, "file with the token that a login needs", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "trusted_proxy",
        [],
        "address or network of a proxy whose headers count; repeatable",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "allowed_host", [], "name by which the page may be asked for; repeatable", flag_values=flag_values
    )
    string("tls_certificate", None, "certificate (PEM), to serve https without a proxy", flag_values=flag_values)
    string("tls_key", None, "its key (PEM)", flag_values=flag_values)
    string(
        "series_folder",
        None,
        "folder in which a series lies while it is read (default: the system's for temporary files)",
        flag_values=flag_values,
    )
    string("audit_log", None, "file of the audit log (default: stderr)", flag_values=flag_values)
    string(
        "audit_key_file",
        None,
        "file with the key of the image hashes in it (default: made of the token; without one new at each start)",
        flag_values=flag_values,
    )
    defaults = Settings()
    for name, text in _SETTINGS.items():
        default = getattr(defaults, name)
        define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: string}[type(default)]
        define(name, default, text, flag_values=flag_values)


def settings_from(flag_values: flags.FlagValues) -> Settings:
    """The settings that the flags give.

    Raises:
        ValueError: naming the flag, if one is wrong.
    """
    values = flag_values
    return Settings(
        token=settings.read_token(values.token_file) if values.token_file else "",
        trusted_proxies=tuple(settings.parse_network(text) for text in values.trusted_proxy),
        allowed_hosts=tuple(values.allowed_host),
        series_folder=Path(values.series_folder) if values.series_folder else None,
        audit_log=Path(values.audit_log) if values.audit_log else None,
        audit_key=audit_log.read_key(values.audit_key_file) if values.audit_key_file else b"",
        **{name: getattr(values, name) for name in _SETTINGS},
    )


@contextlib.contextmanager
def open_predictor(flag_values: flags.FlagValues) -> Iterator[Predictor]:
    """The predictor that the flags name, closed at the end.

    Raises:
        ValueError: if the model, the URL or a number is wrong.
        ImportError: if a package that it needs is not installed.
    """
    values = flag_values
    if values.model:
        edge = EdgePredictor(
            values.model, allow_unfit=values.allow_unfit, threads=values.threads, check=values.check
        )
        predictor = EmbeddedPredictor(edge)
    else:
        from serving.client import connect  # httpx, which a page with a model of its own does not need

        client = connect(
            values.serving_url,
            model=values.serving_model,
            label=values.serving_label,
            timeout=values.serving_timeout,
            ca_file=values.serving_ca_file,
            allow_unfit=values.allow_unfit,
        )
        predictor = RemotePredictor(client, check=values.check)
    try:
        yield predictor
    finally:
        predictor.close()


def set_up_logging() -> None:
    """Logs to stderr; of the HTTP client warnings alone, which would log every request to the model server.

    The readers of DICOM and NIfTI are silent: what they complain about they quote, and it may be a patient's name.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("pydicom", "nibabel.global"):
        logging.getLogger(name).disabled = True


def main(argv: list[str]) -> int:
    """The command; it ends with status 0 after SIGTERM or SIGINT."""
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    _check_flags(flag_values)
    page_settings = settings_from(flag_values)
    set_up_logging()
    tls = {"ssl_certfile": flag_values.tls_certificate, "ssl_keyfile": flag_values.tls_key}
    if not (settings.is_loopback(page_settings.host) or flag_values.tls_certificate):
        logger.warning(
            "logins and images cross the network unencrypted, unless a proxy in front of the page adds TLS"
        )
    if not settings.is_loopback(page_settings.host) and not page_settings.allowed_hosts:
        logger.warning(
            "the page answers by --host and loopback names alone; give the name users type: --allowed_host"
        )
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(open_predictor(flag_values))
        collection = None
        if flag_values.data:
            collection = stack.enter_context(Collection(Path(flag_values.data), flag_values.database))
        app = create_app(page_settings, predictor, collection)
        serve(config_of(app, page_settings, **tls))
    return 0


def _check_flags(flag_values: flags.FlagValues) -> None:
    values = flag_values
    if bool(values.model) == bool(values.serving_url):
        command.usage_error("give either --model=FILE.tflite or --serving_url=http://HOST:8501", USAGE)
    if values.data and not values.operator.strip():
        command.usage_error(
            "--data needs --operator='NAME, CONTACT': those who contribute are told who collects their images",
            USAGE,
        )
    if values.database and not values.data:
        command.usage_error("--database needs --data=DIR, where the images of the data collection go", USAGE)
    if bool(values.tls_certificate) != bool(values.tls_key):
        command.usage_error("--tls_certificate and --tls_key go together", USAGE)


if __name__ == "__main__":
    command.run(main)
