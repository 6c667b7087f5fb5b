"""CEL expressions that choose what is told (Istio: Telemetry's accessLogging.filter.expression), by cel-cpp.

Sources: Envoy docs, advanced/attributes; source/extensions/access_loggers/filters/cel/cel.cc: what fails does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import ResourceError
from .entry import Entry
from .grpc_status import grpc_number

__all__ = ["ROOTS", "compile_expression", "compile_value", "compile_with_roots"]

_Data = dict[str, object]
T = TypeVar("T")

# Comprehensions may take any time; Envoy switches them off, too.
_MACROS = (".all(", ".exists(", ".exists_one(", ".map(", ".filter(")
_LONGEST = 4096


def compile_expression(text: str, where: str) -> Callable[[Entry], bool]:
    """A function that says whether an expression holds.

    Raises:
        ResourceError: It is none, or CEL is not installed.
    """
    evaluate = compile_with_roots(text, where, ROOTS)
    return lambda entry: evaluate(entry) is True


def compile_value(text: str, where: str) -> Callable[[Entry], str]:
    """A function that gives the value of an expression as text (%CEL(…)%); empty where it has none.

    Raises:
        ResourceError: It is none, or CEL is not installed.
    """
    evaluate = compile_with_roots(text, where, ROOTS)

    def value(entry: Entry) -> str:
        found = evaluate(entry)
        if isinstance(found, bool):
            return "true" if found else "false"
        return str(found) if isinstance(found, str | int | float) else ""

    return value


def compile_with_roots(text: str, where: str, roots: Mapping[str, Callable[[T], Any]]) -> Callable[[T], Any]:
    """A function that gives the value of an expression; None where it fails.

    Args:
        text: The expression.
        where: Path for error messages.
        roots: What it may ask for, by name, as maps.

    Raises:
        ResourceError: It is none, or CEL is not installed.
    """
    try:
        from cel_expr_python import cel
    except ImportError:
        raise ResourceError(where, "CEL expressions need cel-expr-python: pip install 'meshsdk[cel]'") from None
    if len(text) > _LONGEST or any(one in text.replace(" ", "") for one in _MACROS):
        raise ResourceError(where, "is too long an expression, or has a comprehension, which is refused")
    try:
        expression: Any = cel.NewEnv(variables=dict.fromkeys(roots, cel.Type.DYN)).compile(text)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ResourceError(where, f"is no expression: {str(error).splitlines()[0]}") from error
    asked = {root: read for root, read in roots.items() if root in text}

    def evaluate(given: T) -> Any:
        try:
            result = expression.eval(data={root: read(given) for root, read in asked.items()})
        except RuntimeError:  # A value that cel-cpp does not take, such as half of a surrogate pair.
            return None
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


def _address(entry: Entry, which: str) -> _Data:
    address, port = entry.ask(f"DOWNSTREAM_{which}_ADDRESS"), entry.ask(f"DOWNSTREAM_{which}_PORT")
    return _told({"address": address or None, "port": int(port) if port.isdecimal() else None})


def _destination(entry: Entry) -> _Data:
    """Of a client's request, the service's port: a sidecar gets it at that."""
    told = _address(entry, "LOCAL")
    parts = entry.steady.cluster.split("|")
    if entry.of_server is None and len(parts) == 4 and parts[1].isdecimal():
        told["port"] = int(parts[1])
    return told


def _upstream(entry: Entry) -> _Data:
    return _told(
        {
            "address": entry.steady.host or None,
            "cluster": entry.steady.cluster or None,
            "transport_failure_reason": entry.steady.failure or None,
            "request_attempt_count": entry.steady.attempts or None,
        }
    )


ROOTS: Mapping[str, Callable[[Entry], _Data]] = {
    "request": _request,
    "response": _response,
    "connection": _connection,
    "source": lambda entry: _address(entry, "REMOTE"),
    "destination": _destination,
    "upstream": _upstream,
    "xds": lambda entry: _told(
        {"route_name": entry.steady.route or None, "cluster_name": entry.steady.cluster or None}
    ),
}
