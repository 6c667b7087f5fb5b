"""The messages of the SPIFFE Workload API's X.509 part (spiffe/spiffe standards/SPIFFE_Workload_API.md).

They are three, so they are described here instead of being generated.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHOD", "Request", "Response"]

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"

_Field = descriptor_pb2.FieldDescriptorProto


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="meshsdk/workloadapi.proto", syntax="proto3")
    file.message_type.add(name="X509SVIDRequest")
    svid = file.message_type.add(name="X509SVID")
    for number, name in enumerate(("spiffe_id", "x509_svid", "x509_svid_key", "bundle", "hint"), start=1):
        kind = _Field.TYPE_STRING if name in ("spiffe_id", "hint") else _Field.TYPE_BYTES
        svid.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    response = file.message_type.add(name="X509SVIDResponse")
    response.field.add(
        name="svids", number=1, type=_Field.TYPE_MESSAGE, type_name=".X509SVID", label=_Field.LABEL_REPEATED
    )
    response.field.add(name="crl", number=2, type=_Field.TYPE_BYTES, label=_Field.LABEL_REPEATED)
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_BYTES, label=_Field.LABEL_OPTIONAL)
    response.field.add(
        name="federated_bundles",
        number=3,
        type=_Field.TYPE_MESSAGE,
        type_name=".X509SVIDResponse.FederatedBundlesEntry",
        label=_Field.LABEL_REPEATED,
    )
    return file


# A pool of its own: a program that has the generated messages keeps them.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_describe())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


Request = _message("X509SVIDRequest")
Response = _message("X509SVIDResponse")
