"""The deployment's files, read: what several test modules look at."""

import re

import yaml
from conftest import REPOSITORY
from google.protobuf import text_format
from proto_reader import message_types
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

SERVING = REPOSITORY / "serving"
CONFIG = SERVING / "config"
COMPOSE = yaml.safe_load((SERVING / "docker-compose.yml").read_text(encoding="utf-8"))
KUBERNETES = {
    (found["kind"], found["metadata"]["name"]): found
    for found in yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text(encoding="utf-8"))
}
GUIDE = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
PROTOS = message_types(SERVING / "protos" / "server_config.proto")
MESSAGES = {
    "models.config": ModelServerConfig,
    "batching.config": PROTOS["BatchingParameters"],
    "monitoring.config": PROTOS["MonitoringConfig"],
}


def parse(name, text=None):
    """A file of serving/config as its message; or another text as the same message."""
    text = (CONFIG / name).read_text(encoding="utf-8") if text is None else text
    return text_format.Parse(text, MESSAGES[name]())


def the_model(text=None):
    """The only model of `models.config`."""
    (model,) = parse("models.config", text).model_config_list.config
    return model


def pod(name):
    """What a Deployment's pods are."""
    return KUBERNETES["Deployment", name]["spec"]["template"]["spec"]


def container(name):
    """The only container of a Deployment."""
    (found,) = pod(name)["containers"]
    return found


def flags_of(arguments):
    """Name -> value of `--name=value`."""
    assert all(re.fullmatch(r"--\w+=\S+", argument) for argument in arguments), arguments
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    assert len(flags) == len(arguments), arguments
    return flags


SERVER = {
    "compose": flags_of(COMPOSE["services"]["serving"]["command"]),
    "kubernetes": flags_of(container("ladnn-serving")["args"]),
}
PAGE = {
    "compose": flags_of(COMPOSE["services"]["page"]["command"]),
    "kubernetes": flags_of(container("ladnn-page")["args"]),
}
