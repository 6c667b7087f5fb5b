"""At DEBUG each decision about a request that is sent is one line of the logger `meshsdk.decisions`."""

from __future__ import annotations

import logging
from typing import Any

from ..log_lines import logger_of
from .shapes import Request

__all__ = ["tell_answer", "tell_failure", "wants_decisions"]

logger = logger_of("meshsdk.decisions")

_MAX_PATH = 256


def wants_decisions() -> bool:
    """Whether somebody reads these lines."""
    return logger.isEnabledFor(logging.DEBUG)


def tell_answer(request: Request, response: Any) -> None:
    """A request was answered, by a server or by the mesh.

    Args:
        response: With the mesh's own part among its extensions.
    """
    info = response.extensions["mesh"]
    parts = [f"route {info.route!r}"] if info.route else []
    if info.cluster:
        parts.append(f"cluster {info.cluster}")
    if info.endpoint:
        parts.append(f"endpoint {info.endpoint}")
    if info.attempts > 1:
        parts.append(f"{info.attempts} attempts")
    if not info.endpoint:
        parts.append(f"answered by the mesh ({' '.join(filter(None, (info.flag, info.details)))})")
    logger.debug("outbound %s: %d, %s", _shown(request), response.status_code, ", ".join(parts))


def tell_failure(request: Request, error: Exception) -> None:
    """A request got no answer."""
    logger.debug("outbound %s: %s: %s", _shown(request), type(error).__name__, error)


def _shown(request: Request) -> str:
    """Method and URL, without what may hold a secret."""
    url = request.url
    path = url.raw_path.partition(b"?")[0][:_MAX_PATH]
    return f"{request.method} {url.scheme}://{url.netloc.decode('latin-1')}{path.decode('latin-1')}"
