"""What the double answers, as messages of TensorFlow Serving, whatever the transport.

Errors are `tf.errors`: their codes are gRPC's, and REST maps them to HTTP's (`rest.py`).
"""

import re

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from serving.double.model import LoadedVersion, Models

SIGNATURE_DEF = "signature_def"
DEFAULT_SIGNATURE = "serving_default"

FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}
"""The field of a `TensorProto` that holds the values of a type."""

_METHODS = tuple(f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))

# What calling a graph from Python puts around the message that a session gives.
_BEFORE = re.compile(r"^Graph execution error:.*?<stack traces unavailable>\n", re.DOTALL)
_BEHIND = re.compile(r"( \[Op:\w*\])?\s*$")


def type_name(dtype: int) -> str:
    """A `DataType` as the server's messages have it: `float`, `string`, `uint8`."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def invalid(message: str) -> tf.errors.InvalidArgumentError:
    """The error of a wrong request."""
    return tf.errors.InvalidArgumentError(None, None, message)


class Service:
    """The calls of PredictionService and ModelService that the double has; may be used by many threads."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers a batch.

        Raises:
            tf.errors.OpError: as the real server would: a version that is not there, a signature that the model
                does not have, inputs that do not fit it, or an error of the graph.
        """
        _check_spec(request)
        version = self._models.find(request.model_spec)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        definition = version.definitions.get(name)
        if definition is None:
            message = f'Serving signature key "{name}" not found.'
            raise tf.errors.FailedPreconditionError(None, None, message)
        if definition.method_name not in _METHODS:
            message = f"Expected the method_name of {name!r} to be one of {', '.join(_METHODS)}"
            raise tf.errors.InternalError(None, None, message)
        inputs = _read_inputs(request, definition)
        wanted = _wanted_outputs(request, definition)
        try:
            outputs = version.functions[name](**inputs)
        except tf.errors.OpError as error:
            message = _BEHIND.sub("", _BEFORE.sub("", error.message))
            raise type(error)(None, None, message) from error
        response = predict_pb2.PredictResponse(model_spec=_answered_by(version, name))
        for alias in wanted:
            response.outputs[alias].CopyFrom(tensor_message(outputs[alias]))
        return response

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version, which may be asked for by its label.

        Raises:
            tf.errors.OpError: if there is no such version, or something else than `signature_def` is asked for.
        """
        _check_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        version = self._models.find(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in version.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_answered_by(version, ""))
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions, or of one. A label is ignored, as the real server does.

        Raises:
            tf.errors.OpError: if there never was such a model or version.
        """
        _check_spec(request)
        spec = request.model_spec
        states = self._models.states(spec.name)
        if spec.HasField("version"):
            number = spec.version.value
            if number not in states:
                raise tf.errors.NotFoundError(None, None, f"Could not find version {number} of model {spec.name}")
            states = {number: states[number]}
        if not states:
            raise tf.errors.NotFoundError(None, None, f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, state in states.items():
            entry = response.model_version_status.add(version=number, state=state.state)
            entry.status.error_code = state.code
            entry.status.error_message = state.message
        return response

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Takes a whole new configuration.

        Raises:
            tf.errors.OpError: as `Models.reload`.
        """
        self._models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = tf.errors.OK
        return response

    def inputs(self, spec: model_pb2.ModelSpec) -> dict[str, meta_graph_pb2.TensorInfo]:
        """The inputs of the signature that a request names; REST reads JSON by them.

        Raises:
            tf.errors.OpError: if there is no such version, or no such signature.
        """
        version = self._models.find(spec)
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name not in version.definitions:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        inputs = dict(version.definitions[name].inputs)
        if not inputs:
            raise invalid(f"Failed to get input map for signature: {name}")
        return inputs


def tensor_message(tensor: tf.Tensor) -> tensor_pb2.TensorProto:
    """A tensor with its values in the field of its type, as the real server sends it, not as `tensor_content`."""
    dtype = tensor.dtype.as_datatype_enum
    if dtype not in FIELDS:
        return tf.make_tensor_proto(tensor)
    message = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=tensor.shape.as_proto())
    # An array of NumPy's own bytes type would lose the zeros at an end.
    values = np.asarray(tensor.numpy(), dtype=object if dtype == types_pb2.DT_STRING else None)
    getattr(message, FIELDS[dtype]).extend(values.ravel().tolist())
    return message


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _answered_by(version: LoadedVersion, signature: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=version.model, signature_name=signature)
    spec.version.value = version.number
    return spec


def _read_inputs(
    request: predict_pb2.PredictRequest, definition: meta_graph_pb2.SignatureDef
) -> dict[str, tf.Tensor]:
    sent, expected = set(request.inputs), set(definition.inputs)
    if sent != expected:
        extra, missing = (",".join(sorted(names)) for names in (sent - expected, expected - sent))
        raise invalid(
            f"inputs do not match the signature: {len(sent)} for {len(expected)}. Sent extra: {{{extra}}}. "
            f"Missing but required: {{{missing}}}."
        )
    return {
        alias: _read_tensor(request.inputs[alias], alias, position, definition.inputs[alias].dtype)
        for position, alias in enumerate(sorted(expected))
    }


def _read_tensor(message: tensor_pb2.TensorProto, alias: str, position: int, dtype: int) -> tf.Tensor:
    try:
        # TensorFlow's own reader, which takes short and overflowing messages as the real server does.
        tensor = tf.io.parse_tensor(message.SerializeToString(), tf.as_dtype(message.dtype))
    except (tf.errors.InvalidArgumentError, TypeError) as error:
        raise invalid(f"tensor parsing error: {alias}") from error
    if message.dtype != dtype:
        expected, found = type_name(dtype), type_name(message.dtype)
        raise invalid(f"Expects arg[{position}] to be {expected} but {found} is provided")
    return tensor


def _wanted_outputs(request: predict_pb2.PredictRequest, definition: meta_graph_pb2.SignatureDef) -> list[str]:
    wanted = list(request.output_filter) or sorted(definition.outputs)
    for position, alias in enumerate(wanted):
        if alias not in definition.outputs:
            expected = ",".join(sorted(definition.outputs))
            raise invalid(
                f"output tensor alias not found in signature: {alias}. Outputs expected to be in the set "
                f"{{{expected}}}."
            )
        if alias in wanted[:position]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return wanted
