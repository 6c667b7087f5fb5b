"""Authorization by HTTP: the request's head is sent to a server, whose status is the answer.

Source: envoy.extensions.filters.http.ext_authz.v3.HttpService; source/extensions/filters/common/ext_authz/
ext_authz_http_impl.cc.
"""

from __future__ import annotations

import httpx

from ..inbound.waits import AskAuthorization, AuthorizationAnswer
from ..resources.filters.ext_authz import HttpAuthorization
from ..routing.string_match import compile_any

__all__ = ["read", "write"]

# Sent whatever is allowed (AuthorizationRequest.allowed_headers); Host, method and path are sent anyway.
_ALWAYS_SENT = frozenset({"authorization"})
# Never taken from an answer into a request.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "host"})


def write(service: HttpAuthorization, question: AskAuthorization) -> httpx.Request:
    """The request that asks."""
    head, is_allowed = question.head, compile_any(service.allowed_request_headers)
    headers = [
        (name, value)
        for name, value in head.raw_headers
        if (text := name.decode("latin-1").lower()) in _ALWAYS_SENT or (is_allowed(text) and text not in _FRAMING)
    ]
    own = {name for name, _ in service.headers_to_add}
    headers = [header for header in headers if header[0].decode("latin-1").lower() not in own]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in service.headers_to_add]
    headers.append((b"host", head.authority.encode("latin-1")))
    url = httpx.URL(f"http://{service.authority or service.cluster}")
    # As it is: httpx would write a path in another way, and another one would be asked about.
    target = (service.path_prefix + head.target).encode("latin-1")
    return httpx.Request(head.method, url, headers=headers, content=question.body, extensions={"target": target})


def read(service: HttpAuthorization, answer: httpx.Response) -> AuthorizationAnswer | None:
    """What the answer says: 200 lets the request in, 5xx is no answer, and all else refuses."""
    headers = [(name.lower(), value) for name, value in answer.headers.multi_items() if name.lower() not in _FRAMING]
    if answer.status_code == 200:
        upstream, append = compile_any(service.upstream_headers), compile_any(service.upstream_headers_to_append)
        client = compile_any(service.client_headers_on_success)
        return AuthorizationAnswer(
            allowed=True,
            set_headers=tuple(header for header in headers if upstream(header[0])),
            append_headers=tuple(header for header in headers if append(header[0])),
            response_headers=tuple(header for header in headers if client(header[0])),
        )
    if answer.status_code >= 500:
        return None
    client = compile_any(service.client_headers) if service.client_headers else _anything
    return AuthorizationAnswer(
        allowed=False,
        status=answer.status_code,
        body=answer.content,
        response_headers=tuple(header for header in headers if client(header[0])),
    )


def _anything(name: str) -> bool:
    return True
