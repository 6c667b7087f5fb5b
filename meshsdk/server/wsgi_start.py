"""A WSGI server that tells nothing of its peers does not start where all of them must show a certificate.

WSGI has no start-up phase of its own: an application is imported, and that is all. But gunicorn imports it in a worker,
which fails to boot when that fails, and `flask run` ends; both say so. Which server that is, and whether it speaks TLS,
is seen from who imports. Others are told with the first request (`drive`), and get no answer but refusals.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ..errors import UnsupportedFeatureError
from .inbound import Inbound

__all__ = ["check_start"]

_NO_PEERS = (
    "port {port} takes mutual TLS only, and {server} does not tell applications whose certificate it has verified:"
    " run the application by mesh.serve(app, port={port}), or give gunicorn mesh.ssl_context(port={port})"
    " (docs/security.md)"
)


def check_start(inbound: Inbound) -> None:
    """Refuse to be imported by such a server.

    Raises:
        UnsupportedFeatureError: It is one, and the port takes mutual TLS only.
        NoRouteError, TimeoutError: It is one, and there is no policy for the port.
    """
    server = _server_without_peers()
    if server and inbound.wait_ready().needs_peers(inbound.port):
        raise UnsupportedFeatureError(_NO_PEERS.format(server=server, port=inbound.port))


def _server_without_peers() -> str:
    """The server that imports the application, where it tells nothing of its peers; empty where that is not known."""
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
        return "flask run"
    worker = _gunicorn_worker()
    return "gunicorn without TLS" if worker is not None and not worker.cfg.is_ssl else ""


def _gunicorn_worker() -> Any:
    """The worker that boots. Where the application is imported before workers are forked there is none yet.

    Nothing may be asked of a management server there: gRPC does not survive a fork.
    """
    base = sys.modules.get("gunicorn.workers.base")
    if base is None:
        return None
    frame = sys._getframe()
    while frame is not None:
        one = frame.f_locals.get("self")
        if isinstance(one, base.Worker):
            return one
        frame = frame.f_back  # type: ignore[assignment]
    return None
