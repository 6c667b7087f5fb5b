"""The head of a request in a WSGI environ, as it came over the wire, and back into the environ.

The path is the request line's, where the server tells it (RAW_URI, REQUEST_URI). The application gets the same path:
what a request says of itself by a header named SCRIPT_NAME, as gunicorn believes local peers, does not choose another.
Nor does a path that leads out of where the application is mounted: whoever mounted it has chosen by the path as it
came.

Source: PEP 3333; gunicorn docs, settings, forwarder_headers.
"""

from __future__ import annotations

import os
import urllib.parse
from functools import lru_cache
from typing import Any

from ..exchange.local_reply import LocalReply, path_refused
from ..inbound import Connection, InboundRequest
from ..routing import RequestHead
from .connections import ADMITTED
from .request_target import is_below, origin_form

__all__ = ["read_head", "write_back"]

Environ = dict[str, Any]

_RAW_TARGETS = ("RAW_URI", "REQUEST_URI")
# What requests say of themselves in headers with these names, where a server passes them on.
_FORWARDED = ("HTTP_SCRIPT_NAME", "HTTP_PATH_INFO")


def read_head(environ: Environ, connection: Connection) -> RequestHead:
    """The head of a request; the environ is corrected where it says something else."""
    target, host = _target(environ)
    if host is not None:
        environ["HTTP_HOST"] = host
    told = [environ.pop(name) for name in _FORWARDED if name in environ]
    if told or not _is_same_path(environ, target):
        of_server = os.environ.get("SCRIPT_NAME", "")
        is_mounted = environ.get("SCRIPT_NAME", "") not in ("", of_server)
        if is_mounted or not _set_path(environ, target, of_server):
            target = ""  # It is not for this application, and is refused.
    headers = [
        (_header_name(name), value.strip(" \t").encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name, header in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length")):
        if environ.get(name):
            headers.append((header, environ[name].encode("latin-1")))
    scheme = "https" if connection.is_tls else "http"
    authority = environ.get("HTTP_HOST", "").strip(" \t")
    return RequestHead(environ["REQUEST_METHOD"], scheme, authority, target, headers)


@lru_cache(maxsize=256)
def _header_name(name: str) -> bytes:
    """The header of one of the environ's names: the same few come again and again."""
    return name[5:].replace("_", "-").lower().encode("latin-1")


def _target(environ: Environ) -> tuple[str, str | None]:
    """Path and query as they were sent, where the server tells, and the host that a target in absolute form names.

    Otherwise the path is escaped anew from what the application gets.
    """
    for name in _RAW_TARGETS:
        raw = environ.get(name)
        if isinstance(raw, str) and raw:
            seen, host = origin_form(raw.encode("latin-1"))
            return seen.decode("latin-1"), host.decode("latin-1") if host is not None else None
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    target = urllib.parse.quote(path.encode("latin-1"), safe="/!$&'()*+,;=:@-._~")
    query = environ.get("QUERY_STRING", "")
    return f"{target}?{query}" if query else target, None


def _is_same_path(environ: Environ, target: str) -> bool:
    """Whether the application runs the path of the request line, wherever it says to be mounted."""
    plain, seen = _plain_path(target), environ.get("PATH_INFO", "")
    # gunicorn cuts SCRIPT_NAME off wherever it ends, and frameworks take what is left for a path.
    return (not seen or seen[0] == "/") and plain in (seen, environ.get("SCRIPT_NAME", "") + seen)


def _set_path(environ: Environ, target: str, prefix: str) -> bool:
    """Have the application see a target's path; False where that is not below `prefix`, where it is mounted."""
    plain = _plain_path(target)
    if not is_below(plain, prefix):
        return False
    environ["SCRIPT_NAME"] = prefix
    environ["PATH_INFO"] = plain.removeprefix(prefix)
    environ["QUERY_STRING"] = target.partition("?")[2]
    return True


def _plain_path(target: str) -> str:
    path = target.partition("?")[0]
    return urllib.parse.unquote_to_bytes(path).decode("latin-1") if "%" in path else path


def write_back(environ: Environ, before: RequestHead, request: InboundRequest) -> LocalReply | None:
    """Give the application the request as policy has left it, or say why it cannot be.

    Args:
        environ: Of the request.
        before: As `read_head` has read it.
        request: As it is now.
    """
    head = request.head
    if head.target != before.target:
        prefix = environ.get("SCRIPT_NAME", "")
        # Where the server adds it, the request line is without it.
        is_added = _plain_path(before.target) == environ.get("PATH_INFO", "")
        if not _set_path(environ, f"{prefix}{head.target}" if is_added else head.target, prefix):
            return path_refused()
        for name in _RAW_TARGETS:
            if name in environ:
                environ[name] = head.target
    known = len(before.raw_headers)
    if head.raw_headers[:known] != before.raw_headers:
        _forget_headers(environ)
        known = 0
    for raw_name, raw_value in head.raw_headers[known:]:
        _write_header(environ, raw_name, raw_value)
    environ[ADMITTED] = True
    environ["meshsdk.peer"] = request.connection.principal
    return None


def _forget_headers(environ: Environ) -> None:
    for name in [name for name in environ if name.startswith("HTTP_")]:
        del environ[name]
    environ.pop("CONTENT_TYPE", None)


def _write_header(environ: Environ, raw_name: bytes, raw_value: bytes) -> None:
    name, value = raw_name.decode("latin-1").upper().replace("-", "_"), raw_value.decode("latin-1")
    key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
    # An empty value says nothing in a list (RFC 9110, section 5.6.1).
    is_list = bool(environ.get(key)) and key != "CONTENT_LENGTH"
    environ[key] = f"{environ[key]},{value}" if is_list and value else environ[key] if is_list else value
