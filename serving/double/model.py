"""The double's models: which versions are loaded, in which state each is, and which one a request means.

As in the real server, a new version is loaded before the old one goes (`availability_preserving_policy.cc`), a
version that cannot be loaded leaves the old one serving, and a version that has gone stays in the list as END.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving.double.config import ModelServerConfig, check_config, wanted_versions

State = get_model_status_pb2.ModelVersionStatus.State

_TAG = "serve"


@dataclasses.dataclass(frozen=True)
class VersionState:
    """The state of a version, loaded or not.

    Attributes:
        state: a `ModelVersionStatus.State`: START, LOADING, AVAILABLE, UNLOADING or END.
        code: of the error that ended it, as gRPC counts; 0 if there was none.
        message: of that error.
    """

    state: int
    code: int = 0
    message: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A SavedModel in memory.

    Attributes:
        model: the model's name.
        number: of the version.
        definitions: its signatures as its file has them.
        functions: what computes them.
        holder: what `tf.saved_model.load` gave; the variables live as long as it does.
    """

    model: str
    number: int
    definitions: Mapping[str, meta_graph_pb2.SignatureDef]
    functions: Mapping[str, Callable[..., dict[str, tf.Tensor]]]
    holder: object


def load_version(model: str, number: int, folder: Path) -> LoadedVersion:
    """Loads a version; what a damaged folder raises is TensorFlow's choice."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graphs = [graph for graph in saved.meta_graphs if _TAG in graph.meta_info_def.tags]
    if not graphs:
        raise tf.errors.NotFoundError(None, None, f"{folder} has no MetaGraphDef with the tag {_TAG!r}")
    loaded = tf.saved_model.load(str(folder), tags=[_TAG])
    return LoadedVersion(model, number, dict(graphs[0].signature_def), dict(loaded.signatures), loaded)


class Models:
    """The models of a configuration; may be used by many threads.

    Args:
        allow_unavailable_labels: whether a label may name a version that is not available, as long as it named no
            other version before (`--allow_version_labels_for_unavailable_models`).
    """

    def __init__(self, *, allow_unavailable_labels: bool = False) -> None:
        self._allow_unavailable_labels = allow_unavailable_labels
        self._changing = threading.Lock()  # held through a whole reload or poll; loading takes seconds
        self._lock = threading.Lock()  # of the fields below
        self._config = ModelServerConfig()
        self._labels: dict[str, dict[str, int]] = {}
        self._loaded: dict[str, dict[int, LoadedVersion]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._failed: dict[str, set[int]] = {}  # not loaded again until they were not asked for meanwhile

    def reload(self, config: ModelServerConfig) -> None:
        """Takes a configuration instead of the one before.

        Models that it adds are loaded, and models that it lacks are unloaded, before this returns; of the other
        models the versions change with the next `poll`, as the real server's do.

        Raises:
            tf.errors.InvalidArgumentError: if the configuration is wrong; the one before stays.
            tf.errors.FailedPreconditionError: if a label names a version that is not available; the same.
            tf.errors.UnknownError: if a model that is new did not become available. The real server waits without
                end for the base path or the version of such a model; it is then in the configuration, here too.
        """
        with self._changing:
            check_config(config)
            labels = self._check_labels(config)
            names = [model.name for model in config.model_config_list.config]
            with self._lock:
                before = {model.name for model in self._config.model_config_list.config}
                self._config, self._labels = config, labels
            for name in before - set(names):
                self._bring_about(name, {})
            added = ModelServerConfig()
            added.model_config_list.config.extend(
                model for model in config.model_config_list.config if model.name not in before
            )
            self._add(added)

    def _add(self, config: ModelServerConfig) -> None:
        try:
            wanted = wanted_versions(config)
        except tf.errors.InvalidArgumentError as error:
            raise tf.errors.UnknownError(None, None, error.message) from error
        for name, folders in wanted.items():
            self._bring_about(name, folders)
        reasons = [self._why_unavailable(name) for name in wanted if not self._loaded.get(name)]
        if reasons:
            raise tf.errors.UnknownError(
                None, None, f"{len(reasons)} model(s) did not become available: {', '.join(reasons)}"
            )

    def _why_unavailable(self, name: str) -> str:
        errors = [f"version {number}: {state.message}" for number, state in self.states(name).items()]
        return f"{{{name}: {'; '.join(errors) or 'its base path has no version that its policy asks for'}}}"

    def poll(self) -> None:
        """Looks into the base paths once, loads what is new and unloads what is not asked for any more."""
        with self._changing:
            try:
                wanted = wanted_versions(self._config)
            except tf.errors.InvalidArgumentError as error:
                logging.error("the base paths cannot be polled, and nothing changes: %s", error.message)
                return
            for name, folders in wanted.items():
                self._bring_about(name, folders)

    def find(self, spec: model_pb2.ModelSpec) -> LoadedVersion:
        """The version that a request means: a number, a label's, or else the highest that is loaded.

        Raises:
            tf.errors.InvalidArgumentError: if there is no name, or no such label.
            tf.errors.NotFoundError: if that version is not available.
        """
        if not spec.name:
            raise tf.errors.InvalidArgumentError(None, None, "ModelSpec has no name specified.")
        with self._lock:
            loaded = self._loaded.get(spec.name, {})
            match spec.WhichOneof("version_choice"):
                case "version":
                    number = spec.version.value
                case "version_label":
                    number = self._labels.get(spec.name, {}).get(spec.version_label)
                    if number is None:
                        message = f"Unrecognized servable version label: {spec.version_label}"
                        raise tf.errors.InvalidArgumentError(None, None, message)
                case _:
                    number = max(loaded, default=None)
            if number in loaded:
                return loaded[number]
        request = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise tf.errors.NotFoundError(None, None, f"Servable not found for request: {request}")

    def states(self, name: str) -> dict[int, VersionState]:
        """Every version of a model that there was since the start, the highest first; empty for an unknown one."""
        with self._lock:
            return dict(sorted(self._states.get(name, {}).items(), reverse=True))

    def _check_labels(self, config: ModelServerConfig) -> dict[str, dict[str, int]]:
        with self._lock:
            for model in config.model_config_list.config:
                before = self._labels.get(model.name, {})
                for label, number in model.version_labels.items():
                    free = self._allow_unavailable_labels and before.get(label, number) == number
                    if not free and number not in self._loaded.get(model.name, {}):
                        message = (
                            f"Request to assign label to version {number} of model {model.name}, which is not "
                            "currently available for inference"
                        )
                        raise tf.errors.FailedPreconditionError(None, None, message)
        return {model.name: dict(model.version_labels) for model in config.model_config_list.config}

    def _bring_about(self, name: str, folders: Mapping[int, Path]) -> None:
        """Loads and unloads, one version at a time, until the folders' versions are those that are there."""
        self._states.setdefault(name, {})
        loaded = self._loaded.setdefault(name, {})
        failed = self._failed.setdefault(name, set())
        failed &= set(folders)
        missing = sorted(set(folders) - set(loaded) - failed)
        for number in missing:
            self._set(name, number, VersionState(State.START))
        while True:
            unwanted = sorted(set(loaded) - set(folders))
            if unwanted and (not folders or set(loaded) & set(folders) or len(unwanted) > 1):
                self._unload(name, unwanted[0])
            elif missing:
                number = missing.pop()
                self._load(name, number, folders[number])
            else:
                return

    def _load(self, name: str, number: int, folder: Path) -> None:
        self._set(name, number, VersionState(State.LOADING))
        try:
            version = load_version(name, number, folder)
        except Exception as error:  # noqa: BLE001  whatever it is, the other versions are served
            logging.error("version %d of %s cannot be loaded from %s: %r", number, name, folder, error)
            code = getattr(error, "error_code", tf.errors.UNKNOWN)
            self._failed[name].add(number)
            self._set(name, number, VersionState(State.END, code, str(error)))
            return
        self._set(name, number, VersionState(State.AVAILABLE), version)
        logging.info("version %d of %s is available, from %s", number, name, folder)

    def _unload(self, name: str, number: int) -> None:
        self._set(name, number, VersionState(State.UNLOADING))
        self._set(name, number, VersionState(State.END))  # a request that has it still finishes
        logging.info("version %d of %s is unloaded", number, name)

    def _set(self, name: str, number: int, state: VersionState, version: LoadedVersion | None = None) -> None:
        with self._lock:
            self._states[name][number] = state
            if version:
                self._loaded[name][number] = version
            else:
                self._loaded[name].pop(number, None)
