"""JSON to tensors and back, for the double's REST interface; the rules of TensorFlow Serving's `json_tensor.cc`.

A request is in rows, `{"instances": [...]}`, each an object of all inputs, or the value itself where there is one
input; or in columns, `{"inputs": {...}}`, or the value itself. The answer is in rows, `{"predictions": [...]}`, or
in columns, `{"outputs": {...}}`, with the same shortcut where there is one output. Bytes are `{"b64": "..."}`: in
requests of any string input, in answers of outputs whose name ends in `_bytes`.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.double.service import FIELDS, invalid, type_name

ROWS, COLUMNS = "instances", "inputs"
"""The key of a request in rows, and of one in columns."""

_BYTES_SUFFIX = "_bytes"
_B64 = "b64"

_INTEGERS = {
    types_pb2.DT_INT8: (-(2**31), 2**31 - 1),  # the message has 32 bits for the small types, too
    types_pb2.DT_INT16: (-(2**31), 2**31 - 1),
    types_pb2.DT_INT32: (-(2**31), 2**31 - 1),
    types_pb2.DT_UINT8: (-(2**31), 2**31 - 1),
    types_pb2.DT_INT64: (-(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
_LARGEST_FLOAT = 3.4028234663852886e38
_EXACT_INTEGERS = {types_pb2.DT_FLOAT: 2**24 - 1, types_pb2.DT_DOUBLE: 2**53 - 1}


def parse(body: bytes) -> dict[str, Any]:
    """Reads a request's JSON object.

    Raises:
        tf.errors.InvalidArgumentError: if it is none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode())
    except json.JSONDecodeError as error:
        # The words of the real server's parser for what it meets most.
        reason = "Invalid value." if error.msg == "Expecting value" else error.msg
        raise invalid(f"JSON Parse error: {reason} at offset: {error.pos}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, an endless number, or brackets without end
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {json.dumps(document)} Is not object")
    return document


def read_signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names, or an empty string.

    Raises:
        tf.errors.InvalidArgumentError: if it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("JSON Value not formatted correctly. 'signature_name' key must be a string value.")
    return name


def read_inputs(
    document: Mapping[str, Any], inputs: Mapping[str, meta_graph_pb2.TensorInfo]
) -> tuple[dict[str, tensor_pb2.TensorProto], str]:
    """Reads a request's tensors.

    Args:
        document: from `parse`.
        inputs: of the signature; the JSON is read by their types.

    Returns:
        The tensors, and `ROWS` or `COLUMNS`.

    Raises:
        tf.errors.InvalidArgumentError: if the JSON does not fit the inputs.
        tf.errors.UnimplementedError: if an input has a type that JSON has no values for.
    """
    if ROWS in document and COLUMNS in document:
        raise invalid(f"JSON Value is not formatted correctly: expecting only one of '{COLUMNS}' or '{ROWS}'")
    if ROWS in document:
        return _read_rows(document[ROWS], inputs), ROWS
    if COLUMNS in document:
        return _read_columns(document[COLUMNS], inputs), COLUMNS
    raise invalid(f"Missing '{COLUMNS}' or '{ROWS}' key")


def _read_rows(rows: object, inputs: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, tensor_pb2.TensorProto]:
    if not isinstance(rows, list):
        raise invalid(f"JSON Value is not formatted correctly: expecting '{ROWS}' to be an list/array")
    if not rows:
        raise invalid(f"No values in '{ROWS}' array")
    named = _is_named(rows[0])
    if not named and len(inputs) > 1:
        raise invalid(f"{ROWS} is a plain list, but expecting list of objects: there are several inputs")
    tensors: dict[str, tensor_pb2.TensorProto] = {}
    for position, row in enumerate(rows):
        if _is_named(row) != named:
            kinds = ("object", "value/list") if named else ("value/list", "object")
            raise invalid(f"Expecting {kinds[0]} but got {kinds[1]} at item {position} of input list")
        values = row if named else {next(iter(inputs)): row}
        element = f"Failed to process element: {position}"
        if set(values) != set(inputs):
            raise invalid(f"{element} of '{ROWS}' list. It must only have keys: {','.join(sorted(inputs))}")
        for name, value in values.items():
            try:
                _append(tensors, name, _tensor(value, inputs[name].dtype))
            except tf.errors.InvalidArgumentError as error:
                raise invalid(f"{element} key: {name} of '{ROWS}' list. Error: {error.message}") from error
    for tensor in tensors.values():
        sizes = [len(rows), *(dimension.size for dimension in tensor.tensor_shape.dim)]
        del tensor.tensor_shape.dim[:]
        _set_shape(tensor, sizes)
    return tensors


def _append(tensors: dict[str, tensor_pb2.TensorProto], name: str, row: tensor_pb2.TensorProto) -> None:
    first = tensors.setdefault(name, row)
    if first.tensor_shape != row.tensor_shape:
        expected, found = ([d.size for d in tensor.tensor_shape.dim] for tensor in (first, row))
        raise invalid(f"Expecting shape {expected} but got: {found}")
    if first is not row and row.dtype in FIELDS:
        getattr(first, FIELDS[row.dtype]).extend(getattr(row, FIELDS[row.dtype]))


def _read_columns(
    columns: object, inputs: Mapping[str, meta_graph_pb2.TensorInfo]
) -> dict[str, tensor_pb2.TensorProto]:
    if not _is_named(columns):
        if len(inputs) > 1:
            raise invalid(f"{COLUMNS} is a plain value/list, but expecting an object: there are several inputs")
        columns = {next(iter(inputs)): columns}
    for name in sorted(inputs):
        if name not in columns:
            raise invalid(f"Missing named input: {name} in '{COLUMNS}' object.")
    # Keys that are no inputs are passed over, as the real server does.
    return {name: _tensor(columns[name], inputs[name].dtype) for name in sorted(inputs)}


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and not _is_b64(value)


def _is_b64(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get(_B64), str)


def _tensor(value: Any, dtype: int) -> tensor_pb2.TensorProto:
    """A value, a list or lists of lists, as a tensor; the first of each list tells the shape."""
    sizes, first = [], value
    while isinstance(first, list):
        sizes.append(len(first))
        first = first[0] if first else None
    message = tensor_pb2.TensorProto(dtype=dtype)
    _set_shape(message, sizes)
    leaves = list(_leaves(value, sizes, dtype))
    if leaves:  # a type without a field was refused with the first
        getattr(message, FIELDS[dtype]).extend(leaves)
    return message


def _set_shape(message: tensor_pb2.TensorProto, sizes: list[int]) -> None:
    for size in sizes:
        message.tensor_shape.dim.add(size=size)


def _leaves(value: Any, sizes: list[int], dtype: int, level: int = 0) -> Iterator[Any]:
    if not isinstance(value, list):
        if level != len(sizes):
            raise invalid(
                f"JSON Value: {json.dumps(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected "
                f"at level: {len(sizes)}"
            )
        yield _leaf(value, dtype)
        return
    if level >= len(sizes):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(sizes)}")
    if len(value) != sizes[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {sizes[level]}"
        )
    for item in value:
        yield from _leaves(item, sizes, dtype, level + 1)


def _leaf(value: Any, dtype: int) -> Any:
    if dtype not in FIELDS:
        message = f"Conversion of JSON Value: {json.dumps(value)} to type: {type_name(dtype)}"
        raise tf.errors.UnimplementedError(None, None, message)
    if dtype == types_pb2.DT_STRING and isinstance(value, dict):
        return _decode(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype in _EXACT_INTEGERS and number:
        return _decimal(value, dtype)
    if dtype in _INTEGERS and number and isinstance(value, int):
        low, high = _INTEGERS[dtype]
        if low <= value <= high:
            return value
    if dtype == types_pb2.DT_BOOL and isinstance(value, bool):
        return value
    if dtype == types_pb2.DT_STRING and isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair
            raise invalid(f"JSON Parse error: {error}") from error
    raise invalid(f"JSON Value: {json.dumps(value)} is not of expected type: {type_name(dtype)}")


def _decimal(value: float, dtype: int) -> float:
    exact = abs(value) <= _EXACT_INTEGERS[dtype] if isinstance(value, int) else not math.isfinite(value)
    if not exact and isinstance(value, float):
        exact = dtype == types_pb2.DT_DOUBLE or abs(value) <= _LARGEST_FLOAT
    if not exact:
        raise invalid(f"Cannot convert JSON value: {value} to {type_name(dtype)} without loss of precision.")
    return float(value)


def _decode(value: Mapping[str, Any]) -> bytes:
    if not _is_b64(value):
        raise invalid(f"JSON Value: {json.dumps(value)} not formatted correctly for base64 data")
    text = "".join(value[_B64].split())
    if "=" not in text:  # padding may be left out
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def write_outputs(outputs: Mapping[str, tensor_pb2.TensorProto], form: str) -> bytes:
    """Writes an answer.

    Args:
        outputs: tensors from `service.tensor_message`.
        form: that of the request, `ROWS` or `COLUMNS`.

    Returns:
        JSON in which numbers that are none are written NaN, Infinity and -Infinity, as the real server does.

    Raises:
        tf.errors.InvalidArgumentError: if a tensor cannot be written so: in rows the outputs must have one first
            dimension of one size.
    """
    for name, tensor in outputs.items():
        if tensor.dtype not in FIELDS:
            raise invalid(f"Failed to write JSON value for tensor type: {type_name(tensor.dtype)} ({name})")
    if form == ROWS:
        _check_rows(outputs)
    values = {name: _nested(name, tensor) for name, tensor in sorted(outputs.items())}
    if form == COLUMNS:
        document = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    elif len(values) == 1:
        document = {"predictions": next(iter(values.values()))}
    else:
        rows = zip(*values.values(), strict=True)
        document = {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _check_rows(outputs: Mapping[str, tensor_pb2.TensorProto]) -> None:
    sizes = {}
    for name, tensor in outputs.items():
        if not tensor.tensor_shape.dim:
            raise invalid(f"Tensor name: {name} has no shape information")
        sizes[name] = tensor.tensor_shape.dim[0].size
        if sizes[name] < 1:
            raise invalid(f"Tensor name: {name} has invalid batch size: {sizes[name]}")
        expected = next(iter(sizes.values()))
        if sizes[name] != expected:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {sizes[name]} expecting: {expected}")


def _nested(name: str, tensor: tensor_pb2.TensorProto) -> Any:
    as_bytes = tensor.dtype == types_pb2.DT_STRING and name.endswith(_BYTES_SUFFIX)
    field = getattr(tensor, FIELDS[tensor.dtype])
    values = np.empty(len(field), dtype=object)
    values[:] = [_value(value, tensor.dtype, as_bytes) for value in field]
    return values.reshape([dimension.size for dimension in tensor.tensor_shape.dim]).tolist()


def _value(value: Any, dtype: int, as_bytes: bool) -> Any:
    if as_bytes:
        return {_B64: base64.b64encode(value).decode()}
    if dtype == types_pb2.DT_STRING:
        return value.decode("utf-8", "surrogateescape")
    if dtype == types_pb2.DT_FLOAT and math.isfinite(value):
        # The real server writes six digits where they give the same number, else nine.
        short = float(f"{value:.6g}")
        return short if struct.pack("f", short) == struct.pack("f", value) else float(f"{value:.9g}")
    return value
