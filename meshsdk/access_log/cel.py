"""CEL expressions that choose what is told (Istio: Telemetry's accessLogging.filter.expression), by cel-cpp.

Sources: Envoy docs, advanced/attributes; source/extensions/access_loggers/filters/cel/cel.cc: what fails does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ResourceError
from .entry import Entry
from .grpc_status import grpc_number

__all__ = ["compile_expression", "compile_value"]

_Data = dict[str, object]

# Comprehensions may take any time; Envoy switches them off, too.
_MACROS = (".all(", ".exists(", ".exists_one(", ".map(", ".filter(")
_LONGEST = 4096


def compile_expression(text: str, where: str) -> Callable[[Entry], bool]:
    """A function that says whether an expression holds.

    Raises:
        ResourceError: It is none, or CEL is not installed.
    """
    evaluate = _compile(text, where)
    return lambda entry: evaluate(entry) is True


def compile_value(text: str, where: str) -> Callable[[Entry], str]:
    """A function that gives the value of an expression as text (%CEL(…)%); empty where it has none.

    Raises:
        ResourceError: It is none, or CEL is not installed.
    """
    evaluate = _compile(text, where)

    def value(entry: Entry) -> str:
        found = evaluate(entry)
        if isinstance(found, bool):
            return "true" if found else "false"
        return str(found) if isinstance(found, str | int | float) else ""

    return value


def _compile(text: str, where: str) -> Callable[[Entry], Any]:
    try:
        from cel_expr_python import cel
    except ImportError:
        raise ResourceError(where, "CEL expressions need cel-expr-python: pip install 'meshsdk[cel]'") from None
    if len(text) > _LONGEST or any(one in text.replace(" ", "") for one in _MACROS):
        raise ResourceError(where, "is too long an expression, or has a comprehension, which is refused")
    try:
        expression: Any = cel.NewEnv(variables=dict.fromkeys(_ROOTS, cel.Type.DYN)).compile(text)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ResourceError(where, f"is no expression: {str(error).splitlines()[0]}") from error
    asked = {root: read for root, read in _ROOTS.items() if root in text}

    def evaluate(entry: Entry) -> Any:
        result = expression.eval(data={root: read(entry) for root, read in asked.items()})
        return None if result.type() == cel.Type.ERROR else result.value()

    return evaluate


def _headers(pairs: Any) -> dict[str, str]:
    told: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
        told[name] = f"{told[name]},{value}" if name in told else value
    return told


def _told(data: dict[str, object | None]) -> _Data:
    """What is there of it: `has(…)` goes by that."""
    return {name: value for name, value in data.items() if value is not None}


def _request(entry: Entry) -> _Data:
    head = entry.head
    headers = _headers(head.raw_headers)
    headers.pop("host", None)
    headers.update({":method": head.method, ":path": head.target, ":authority": head.authority, ":scheme": head.scheme})
    return _told(
        {
            "path": head.target,
            "url_path": head.path,
            "query": head.query.partition("#")[0],
            "host": head.authority,
            "scheme": head.scheme,
            "method": head.method,
            "headers": headers,
            "referer": headers.get("referer"),
            "useragent": headers.get("user-agent"),
            "id": headers.get("x-request-id"),
            "size": entry.received,
            "protocol": entry.steady.protocol,
        }
    )


def _response(entry: Entry) -> _Data:
    return _told(
        {
            "code": entry.steady.status or None,
            "code_details": entry.steady.details or None,
            "headers": _headers(entry.headers),
            "trailers": _headers(entry.trailers),
            "grpc_status": grpc_number(entry),
            "size": entry.sent,
        }
    )


def _of_connection(**names: str) -> Callable[[Entry], _Data]:
    """Attributes that are operators, too."""

    def read(entry: Entry) -> _Data:
        return {name: value for name, asked in names.items() if (value := entry.ask(asked))}

    return read


_peer = _of_connection(
    requested_server_name="REQUESTED_SERVER_NAME",
    tls_version="DOWNSTREAM_TLS_VERSION",
    uri_san_peer_certificate="DOWNSTREAM_PEER_URI_SAN",
    dns_san_peer_certificate="DOWNSTREAM_PEER_DNS_SAN",
    subject_peer_certificate="DOWNSTREAM_PEER_SUBJECT",
)


def _connection(entry: Entry) -> _Data:
    told = _peer(entry)
    return {**told, "mtls": bool(entry.ask("DOWNSTREAM_PEER_FINGERPRINT_256"))}


def _upstream(entry: Entry) -> _Data:
    return _told(
        {
            "address": entry.steady.host or None,
            "cluster": entry.steady.cluster or None,
            "transport_failure_reason": entry.steady.failure or None,
            "request_attempt_count": entry.steady.attempts or None,
        }
    )


_ROOTS: dict[str, Callable[[Entry], _Data]] = {
    "request": _request,
    "response": _response,
    "connection": _connection,
    "source": _of_connection(address="DOWNSTREAM_REMOTE_ADDRESS"),
    "destination": _of_connection(address="DOWNSTREAM_LOCAL_ADDRESS"),
    "upstream": _upstream,
    "xds": lambda entry: _told(
        {"route_name": entry.steady.route or None, "cluster_name": entry.steady.cluster or None}
    ),
}
