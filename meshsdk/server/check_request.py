"""Authorization by gRPC: envoy.service.auth.v3.Authorization.Check."""

from __future__ import annotations

import urllib.parse

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ..http.grpc_unary import read_call, write_call
from ..inbound.waits import AskAuthorization, AuthorizationAnswer
from ..resources.filters.ext_authz import GrpcAuthorization
from ..routing.string_match import compile_any

__all__ = ["read", "write"]

_METHOD = "/envoy.service.auth.v3.Authorization/Check"


def write(service: GrpcAuthorization, question: AskAuthorization) -> httpx.Request:
    """The call."""
    message = _check_request(question).SerializeToString()
    return write_call(service.cluster, _METHOD, message, service.timeout_seconds, service.metadata)


def _check_request(question: AskAuthorization) -> external_auth_pb2.CheckRequest:
    head, connection, settings = question.head, question.connection, question.settings
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    _set_peer(attributes.source, connection.source_ip, connection.source_port)
    _set_peer(attributes.destination, connection.destination_ip, connection.destination_port)
    peer = connection.peer
    if peer is not None:
        names = peer.values("URI") or peer.values("DNS") or [peer.subject]
        attributes.source.principal = names[0]
        if settings.include_peer_certificate:
            pem = x509.load_der_x509_certificate(peer.der).public_bytes(Encoding.PEM).decode()
            attributes.source.certificate = urllib.parse.quote(pem, safe="")
    attributes.destination.principal = connection.own_uri
    attributes.request.time.GetCurrentTime()
    http = attributes.request.http
    http.method, http.host, http.path, http.scheme = head.method, head.authority, head.target, head.scheme
    http.protocol = "HTTP/1.1"
    _set_headers(http, question)
    if settings.pack_as_bytes:
        http.raw_body = question.body
    else:
        http.body = question.body.decode("utf-8", "replace")
    http.size = _size(head.header("content-length") or "")
    attributes.context_extensions.update(question.context_extensions)
    for name, values in question.metadata.items():
        json_format.ParseDict(dict(values), attributes.metadata_context.filter_metadata[name])
    return request


def _size(length: str) -> int:
    """AttributeContext.HttpRequest.size: -1 where the body's length is not known, or more than the field takes."""
    size = int(length) if length.isdecimal() and length.isascii() else -1
    return size if size < 1 << 63 else -1


def _set_headers(http: attribute_context_pb2.AttributeContext.HttpRequest, question: AskAuthorization) -> None:
    head, settings = question.head, question.settings
    is_allowed, is_refused = compile_any(settings.allowed_headers), compile_any(settings.disallowed_headers)
    pseudo = ((":method", head.method), (":authority", head.authority), (":path", head.target))
    given = [(name.decode("latin-1").lower(), value) for name, value in head.raw_headers]
    made = [(name, value.encode("latin-1")) for name, value in (*pseudo, (":scheme", head.scheme))]
    for name, value in (*made, *given):
        if name == "host" or is_refused(name) or (settings.allowed_headers and not is_allowed(name)):
            continue
        if settings.encode_raw_headers:
            http.header_map.headers.add(key=name, raw_value=value)
            continue
        text = value.decode("utf-8", "replace")
        http.headers[name] = f"{http.headers[name]},{text}" if name in http.headers else text


def _set_peer(peer: object, ip: str, port: int) -> None:
    socket = peer.address.socket_address  # type: ignore[attr-defined]
    socket.address, socket.port_value = ip, port


def read(answer: httpx.Response) -> AuthorizationAnswer:
    """What the server says.

    Raises:
        ValueError: The call failed, or the answer is none.
    """
    try:
        message = external_auth_pb2.CheckResponse.FromString(read_call(answer))
    except DecodeError as error:
        raise ValueError(f"the answer does not parse: {error}") from error
    metadata = json_format.MessageToDict(message.dynamic_metadata)
    if message.status.code == 0:
        ok = message.ok_response
        # HeaderValueOption.append is deprecated, and what most servers still set; unset it means overwrite here.
        added = [one for one in ok.headers if one.append.value]
        replaced = [one for one in ok.headers if not one.append.value]
        return AuthorizationAnswer(
            allowed=True,
            set_headers=tuple((one.header.key, _value(one.header)) for one in replaced),
            append_headers=tuple((one.header.key, _value(one.header)) for one in added),
            remove_headers=tuple(ok.headers_to_remove),
            response_headers=tuple((one.header.key, _value(one.header)) for one in ok.response_headers_to_add),
            metadata=metadata,
        )
    denied = message.denied_response
    return AuthorizationAnswer(
        allowed=False,
        status=denied.status.code or 403,
        body=denied.body.encode(),
        response_headers=tuple((one.header.key, _value(one.header)) for one in denied.headers),
        metadata=metadata,
    )


def _value(header: base_pb2.HeaderValue) -> str:
    return str(header.value or header.raw_value.decode("utf-8", "replace"))
