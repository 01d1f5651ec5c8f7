"""Models for the tests of serving: the tiny run's SavedModel in two versions, and one of odd signatures.

A test module makes its own fixtures of these functions:

    @pytest.fixture(scope="module")
    def models(tiny_run, tmp_path_factory):
        return version_folders(tiny_run, tmp_path_factory.mktemp("models") / "ladnn")

    @pytest.fixture(scope="module")
    def double(models):
        with Double({"ladnn": models}) as double:  # the newest version alone, as the real server does
            yield double  # .rest_url, .grpc_address

Both versions and labels need a config file: `Double(write_config(file, {"ladnn": models}, labels={"stable": 1,
"canary": 2}), allow_version_labels_for_unavailable_models=True)`.

TensorFlow is imported where it is needed, not with this module.
"""

import dataclasses
import functools
import io
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TEMPERATURES = {1: 1.0, 2: 3.0}
"""What the logit of COVID-19 is divided by in each version, so that each answers differently."""


def version_folders(run: Path, base: Path) -> Path:
    """Makes a model's base path with the versions 1 and 2.

    Args:
        run: the folder of `tiny_run`.
        base: the folder to make; its name is the model's.

    Returns:
        `base`, which holds the folders `1` and `2`: the SavedModel of the run with the temperatures of
        `TEMPERATURES`, with warm-up requests and cards.
    """
    base.mkdir(parents=True)
    for version in TEMPERATURES:
        add_version(run, base, version)
    return base


def add_version(run: Path, base: Path, version: int, made_as: int | None = None) -> None:
    """Puts a version into a base path, whole or not at all, as an export does.

    Args:
        run: the folder of `tiny_run`.
        base: the model's base path.
        version: the name of the folder to make.
        made_as: a key of `TEMPERATURES`; the version itself where it is None.
    """
    hidden = base / f".{version}"
    shutil.copytree(_staged(run) / str(made_as or version), hidden)
    hidden.rename(base / str(version))


def write_config(
    file: Path,
    models: Mapping[str, Path],
    *,
    policy: str = "all {}",
    labels: Mapping[str, int] | None = None,
) -> Path:
    """Writes a `models.config`, the text form of a `ModelServerConfig`.

    Args:
        file: the file to write; it is replaced in one step.
        models: name -> base path.
        policy: which versions are served: `all {}`, `latest { num_versions: 1 }`, `specific { versions: 1 }`.
        labels: label -> version, of every model that is called `ladnn`.

    Returns:
        `file`.
    """
    entries = []
    for name, base in models.items():
        named = (labels or {}) if name == "ladnn" else {}
        lines = [f'version_labels {{ key: "{label}" value: {version} }}' for label, version in named.items()]
        entries.append(
            f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow"'
            f" model_version_policy {{ {policy} }} {' '.join(lines)} }}"
        )
    hidden = file.with_name(f".{file.name}")
    hidden.write_text(f"model_config_list {{ {' '.join(entries)} }}\n")
    return hidden.rename(file)


@functools.cache
def _staged(run: Path) -> Path:
    from export import saved_model
    from ladnn_tf import runs

    folder = Path(tempfile.mkdtemp(prefix="versions-", dir=run.parent))
    loaded = runs.load_run(run)
    for version, temperature in TEMPERATURES.items():
        changed = dataclasses.replace(loaded, card=dataclasses.replace(loaded.card, temperature=temperature))
        saved_model.stage(changed, folder / str(version))
    return folder


def odd_folder(base: Path) -> Path:
    """Makes the base path of a model with signatures of odd shapes and types, and none called `serving_default`.

    - `sum`: `a` (B,) and `b` (B,) float32 to `sum`, a + b;
    - `echo`: `values` (B, N) float32 to `echoed`, the same;
    - `kinds`: `count` (B,) int64 to `text` (in digits), `raw_bytes` (a byte 255, then the digits), `flag` (above
      0), `half` (float64) and `small` (uint8);
    - `total`: `values` (B,) float32 to `total`, a number without a batch;
    - `mark`: `values` (B,) float32 to `mark_bytes`, the bytes 255 and 0, without a batch;
    - `uneven`: `values` (B,) float32 to `values` and `first`, of which the second has one row only.

    Args:
        base: the folder to make.

    Returns:
        `base`, which holds the version 7.
    """
    import tensorflow as tf

    def function(definition, **types):
        specs = {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in types.items()}
        return tf.function(definition).get_concrete_function(**specs)

    def kinds(count):
        text = tf.strings.as_string(count)
        half, small = tf.cast(count, tf.float64) / 2, tf.cast(count, tf.uint8)
        raw = tf.strings.join([tf.constant(b"\xff"), text])
        return {"text": text, "raw_bytes": raw, "flag": count > 0, "half": half, "small": small}

    row = ((None,), tf.float32)
    signatures = {
        "sum": function(lambda a, b: {"sum": a + b}, a=row, b=row),
        "echo": function(lambda values: {"echoed": tf.identity(values)}, values=((None, None), tf.float32)),
        "kinds": function(kinds, count=((None,), tf.int64)),
        "total": function(lambda values: {"total": tf.reduce_sum(values)}, values=row),
        "mark": function(lambda values: {"mark_bytes": tf.constant(b"\xff\0")}, values=row),
        "uneven": function(lambda values: {"values": values * 1, "first": values[:1]}, values=row),
    }
    tf.saved_model.save(tf.Module(), str(base / "7"), signatures=signatures)
    return base


def slice_png(seed: int = 0) -> bytes:
    """A phantom slice as a PNG; each seed gives another one."""
    from ladnn_tf.data.phantom_anatomy import sample_patient
    from ladnn_tf.data.phantom_slice import draw_slice
    from ladnn_tf.data.preprocess import encode_png

    patient = sample_patient(*np.random.default_rng(seed).spawn(2))
    return encode_png(draw_slice(patient, ("GGO",), level=0.5, seed=seed, size=64).image)


def slice_jpeg(seed: int = 0) -> bytes:
    """The same slice as a JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(slice_png(seed))).save(buffer, "JPEG")
    return buffer.getvalue()
