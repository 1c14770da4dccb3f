"""What protoc makes of the chat.proto in docs/howto/validate-messages.md; `Hello` has two oneofs, for tests.

The classes come from descriptors, as in a generated file, which would name one version of protobuf.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

CLASSES: dict[str, dict[str, Any]] = {
    "Join": {"room": str},
    "Say": {"text": str},
    "Envelope": {"payload": {"join": "Join", "say": "Say", "typing": bool}},
    "Hello": {"id": str, "first": {"join": "Join", "say": "Say"}, "second": {"joined": "Join"}},
}
_SCALARS = {str: FieldDescriptorProto.TYPE_STRING, bool: FieldDescriptorProto.TYPE_BOOL}


def _add_field(message: Any, name: str, kind: Any) -> Any:
    field = message.field.add(name=name, number=len(message.field) + 1, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if isinstance(kind, str):
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".chat.{kind}"
    else:
        field.type = _SCALARS[kind]
    return field


def _make_file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="chat.proto", package="chat", syntax="proto3")
    for name, fields in CLASSES.items():
        message = file.message_type.add(name=name)
        for field, kind in fields.items():
            if not isinstance(kind, dict):
                _add_field(message, field, kind)
                continue
            message.oneof_decl.add(name=field)
            for inner, inner_kind in kind.items():
                _add_field(message, inner, inner_kind).oneof_index = len(message.oneof_decl) - 1
    return file


descriptor_pool.Default().Add(_make_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"chat.{name}"))


Join, Say, Envelope, Hello = map(_class, CLASSES)
