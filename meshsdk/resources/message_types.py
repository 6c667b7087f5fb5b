"""The classes of messages that resources name by a type URL, each loaded when it is met."""

from __future__ import annotations

import importlib
import pkgutil

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["class_of", "is_marked_sensitive"]

# Where types of resources are; what else a type URL may name is not loaded.
_ROOTS = ("envoy.", "xds.", "udpa.")

_looked_for: set[str] = set()


def is_marked_sensitive(field: FieldDescriptor) -> bool:
    """Whether a field holds a secret (udpa.annotations.sensitive)."""
    from udpa.annotations import sensitive_pb2

    return bool(field.GetOptions().Extensions[sensitive_pb2.sensitive])


def class_of(name: str) -> type[Message] | None:
    """The class of a type's messages, which is loaded where it is not yet; None where there is none."""
    pool = descriptor_pool.Default()
    try:
        found = pool.FindMessageTypeByName(name)
    except KeyError:
        if not _load(name.rpartition(".")[0]):
            return None
        try:
            found = pool.FindMessageTypeByName(name)
        except KeyError:
            return None
    made: type[Message] = message_factory.GetMessageClass(found)
    return made


def _load(package: str) -> bool:
    """Load the modules of a protobuf package, once."""
    if (
        package in _looked_for
        or not package.startswith(_ROOTS)
        or not package.replace(".", "").replace("_", "").isalnum()
    ):
        return False
    if len(_looked_for) < 1000:
        _looked_for.add(package)
    try:
        place = importlib.import_module(package)
    except ImportError:
        return False
    for module in pkgutil.iter_modules(getattr(place, "__path__", ())):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")
    return True
