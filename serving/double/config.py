"""The double's configuration: a `ModelServerConfig`, and what its version policies ask for in the folders.

The rules are those of TensorFlow Serving's `server_core.cc` and `file_system_storage_path_source.cc`; errors are
`tf.errors`, whose codes are gRPC's.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

ModelServerConfig = model_server_config_pb2.ModelServerConfig

PLATFORM = "tensorflow"

_VERSION = re.compile(r"[+-]?[0-9]+")  # whatever C's strtoll reads whole
_LIST = "model_config_list"


def config_of(models: Mapping[str, Path]) -> ModelServerConfig:
    """The configuration that `--model_name` and `--model_base_path` stand for, of one model or several.

    Args:
        models: name -> base path; a relative one counts from the working directory, where the real server wants
            absolute ones.
    """
    config = ModelServerConfig()
    for name, base in models.items():
        config.model_config_list.config.add(
            name=name, base_path=str(Path(base).absolute()), model_platform=PLATFORM
        )
    return config


def read_config(file: Path) -> ModelServerConfig:
    """Reads a `models.config`.

    Raises:
        ValueError: if it is not the text form of a `ModelServerConfig` with a `model_config_list`.
        OSError: if it cannot be read.
    """
    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not the text form of a ModelServerConfig: {error}") from error
    if config.WhichOneof("config") != _LIST:
        raise ValueError(f"{file} has no {_LIST}; write {_LIST} {{ config {{ name: ... }} }}")
    return config


def check_config(config: ModelServerConfig) -> None:
    """Checks what the real server checks before it changes anything.

    Raises:
        tf.errors.InvalidArgumentError: if a model is listed twice, its base path is relative, or its platform is
            not TensorFlow.
    """
    if config.WhichOneof("config") != _LIST:
        raise _invalid(f"a configuration should have a {_LIST}; other kinds are not supported")
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise _invalid(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if not Path(model.base_path).is_absolute():
            raise _invalid(
                f"Expected model {model.name} to have an absolute path; got base_path={model.base_path}"
            )
        if model.model_platform != PLATFORM:
            raise _invalid(f"Model {model.name} requests unsupported platform {model.model_platform!r}")


def wanted_versions(config: ModelServerConfig) -> dict[str, dict[int, Path]]:
    """Looks into the base paths.

    Returns:
        For each model the folders of the versions that its policy asks for and that are there, by number.

    Raises:
        tf.errors.InvalidArgumentError: if a base path is not there. Then nothing is known of the other models
            either: the real server leaves all as they are until it is back.
    """
    return {model.name: _wanted(model) for model in config.model_config_list.config}


def _wanted(model: model_server_config_pb2.ModelConfig) -> dict[int, Path]:
    base = Path(model.base_path)
    try:
        folders = {int(path.name): path for path in sorted(base.iterdir()) if _VERSION.fullmatch(path.name)}
    except OSError as error:
        raise _invalid(f"Could not find base path {base} for servable {model.name}") from error
    policy = model.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            numbers = set(folders)
        case "specific":
            numbers = set(folders) & set(policy.specific.versions)
        case _:
            numbers = set(sorted(folders)[-max(policy.latest.num_versions, 1) :])
    return {number: folders[number] for number in sorted(numbers)}


def _invalid(message: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, message)
