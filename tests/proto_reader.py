"""Reads the .proto files of `serving/protos` for the tests, where there is no protoc.

It knows the little that those files use, which is proto3 with imports of protobuf's own messages, and refuses the
rest. The classes come from a pool of their own, since the names are TensorFlow Serving's.
"""

import importlib
import re
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_FIELD = re.compile(r"(?:(repeated) )?([\w.]+) (\w+) = (\d+);")
_SCALARS = {"bool", "int64", "string"}


def message_types(path: Path) -> dict[str, type[Message]]:
    """The messages of a .proto file.

    Args:
        path: the file.

    Returns:
        Name without the package -> class.

    Raises:
        ValueError: for a line that this reader does not know.
    """
    file = _parse(path)
    pool = descriptor_pool.DescriptorPool()
    for name in file.dependency:
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    names = [message.name for message in file.message_type]
    descriptors = {name: pool.FindMessageTypeByName(f"{file.package}.{name}") for name in names}
    return {name: message_factory.GetMessageClass(found) for name, found in descriptors.items()}


def _parse(path: Path) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=path.name)
    message = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        statement = line.partition("//")[0].strip()
        if not statement:
            continue
        if message is not None and statement == "}":
            message = None
        elif message is not None and (found := _FIELD.fullmatch(statement)):
            _add_field(message, *found.groups())
        elif message is None and (found := re.fullmatch(r"message (\w+) \{", statement)):
            message = file.message_type.add(name=found[1])
        elif message is None and (found := re.fullmatch(r'(syntax = |package |import )"?([\w./]+)"?;', statement)):
            _set_property(file, found[1].split()[0], found[2])
        else:
            raise ValueError(f"{path}, line {number}: {statement!r} is not understood")
    if file.syntax != "proto3" or message is not None:
        raise ValueError(f"{path} should be proto3, and end outside of a message")
    return file


def _set_property(file: descriptor_pb2.FileDescriptorProto, keyword: str, value: str) -> None:
    if keyword == "import":
        file.dependency.append(value)
    else:
        setattr(file, keyword, value)


def _add_field(message: descriptor_pb2.DescriptorProto, repeated: str, kind: str, name: str, number: str) -> None:
    enumeration = descriptor_pb2.FieldDescriptorProto
    label = enumeration.LABEL_REPEATED if repeated else enumeration.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    if kind in _SCALARS:
        field.type = enumeration.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type_name = kind  # resolved by the pool, which also finds out that it is a message
