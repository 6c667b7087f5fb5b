"""A WSGI application whose every worker has a Mesh by the environment: `/a` is what the service `a` answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import meshsdk

client = meshsdk.Mesh().client()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """See the module."""
    response = client.get(f"http://{environ['PATH_INFO'].strip('/')}/")
    start_response(f"{response.status_code} -", [("content-type", "application/json")])
    return [response.content]
