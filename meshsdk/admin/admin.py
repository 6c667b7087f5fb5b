"""The admin page of one process: what is asked for at which path.

Nothing here changes the mesh. What a request may be explained by is asked for by POST, since configuration for its host
is fetched; everything else is read.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from ..control import Control
from ..decision import Decision
from ..errors import MeshError
from ..mesh_status import MeshStatus
from ..security import Identity
from ..security.identity import describe_identity
from ..server.monitoring import Monitoring
from ..server.side_port import Answer, Asked, SidePort
from ..telemetry.cells import BOUNDS
from ..telemetry.prometheus import CONTENT_TYPE
from ..xds import CachedResource, Status
from . import envoy_pages, overview
from .changes import Changes
from .envoy_dump import config_dump
from .guard import HEADERS, refusal
from .history import History
from .recent import Recent

__all__ = ["Admin"]


# Processes of one application, as gunicorn's workers, take the ports after each other.
_SPREAD = 16
_DUMP_SECONDS = 10.0
_LOOPBACK = "127.0.0.1"

_JSON = "application/json"
_TEXT = "text/plain; charset=UTF-8"
_STATIC = Path(__file__).parent / "static"
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/graph.js": ("graph.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

Query = Mapping[str, str]
Explain = Callable[..., Decision]


class _NotFound(LookupError):
    """What is asked for is not there; the text says what."""


class Admin:
    """Serves the page.

    Args:
        control: The Mesh's inner side.
        monitoring: Of the same.
        explain: `Mesh.explain`.
        status: `Mesh.status`.
        identity: The process's own.
        port: The first that is tried.
        address: That it listens on.

    Attributes:
        history: Configurations that were in use.
    """

    def __init__(
        self,
        control: Control,
        monitoring: Monitoring,
        explain: Explain,
        status: Callable[[], MeshStatus],
        identity: Identity | None,
        port: int,
        address: str = _LOOPBACK,
    ) -> None:
        self._control = control
        self._monitoring = monitoring
        self._explain = explain
        self._status = status
        self._identity = identity
        self._address = address
        self._first_port = port
        self._started_at = time.time()
        self._recent = Recent(self._on_first)
        self._changes = Changes()
        self.history = History()
        self._is_watching = self._is_closed = False
        self._one_dump = threading.Lock()
        monitoring.metrics.recent = self._recent
        self._port = SidePort("the admin page", port, self._answer, address=address, spread=_SPREAD)
        self._paths = self._make_paths()
        control.register(self)
        self.start()

    @property
    def url(self) -> str:
        """Where the page is; empty while it is not served."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port.port}/" if self._port.port else ""

    def start(self) -> None:
        """Serve, and follow the configuration."""
        if not self._is_watching:
            self._is_watching = True
            self._control.watch(self._look)
        self._port.start()

    def close(self) -> None:
        """Give the port back."""
        self._is_closed = True
        self._port.close()

    def _after_fork(self) -> None:
        """See `http.dispatcher.Transport`. The child begins to serve with its first request, at a port of its own."""
        self._changes = Changes()
        self.history = History()
        self._is_watching = False
        self._one_dump = threading.Lock()
        self._started_at = time.time()
        self._port.after_fork()

    def _drop_removed(self) -> None:
        """See `http.dispatcher.Transport`."""

    def _on_first(self) -> None:
        if not self._is_watching and not self._is_closed:
            with contextlib.suppress(MeshError):  # It is closed meanwhile, which is none of the request's business.
                self.start()

    def _look(self) -> None:
        """On the control thread."""
        self._changes.look(self._control.cache)
        self.history.keep(self._control.directory)

    def _entries(self) -> list[tuple[str, str, CachedResource]]:
        def look() -> list[tuple[str, str, CachedResource]]:
            self._look()
            return [(kind.type_url, name, entry) for kind, name, entry in self._control.cache]

        return self._control.call(look)

    def _answer(self, asked: Asked) -> Answer:
        refused = refusal(asked.headers, self._address, asked.path)
        if refused:
            return Answer(403, _TEXT, f"{refused}\n".encode(), HEADERS)
        query = {
            name: values[-1] for name, values in urllib.parse.parse_qs(asked.query, keep_blank_values=True).items()
        }
        try:
            answer = self._at(asked, query)
        except (MeshError, LookupError, ValueError, TimeoutError, RecursionError, httpx.InvalidURL) as error:
            answer = Answer(_status_of(error), _TEXT, f"{error}\n".encode("utf-8", "replace"))
        return answer._replace(headers=HEADERS)

    def _at(self, asked: Asked, query: Query) -> Answer:
        if asked.method == "POST":
            if asked.path != "/api/explain":
                raise _NotFound(f"nothing is changed here: there is no POST {asked.path}")
            if asked.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
                raise ValueError("the body must be application/json")
            return _json(self._explained(asked.body))
        if asked.path in _PAGE:
            name, content_type = _PAGE[asked.path]
            return Answer(200, content_type, (_STATIC / name).read_bytes())
        make = self._paths.get(asked.path)
        if make is None:
            raise _NotFound(f"there is no {asked.path}; see /help")
        made = make(query)
        return made if isinstance(made, Answer) else _json(made)

    def _make_paths(self) -> dict[str, Callable[[Query], Any]]:
        return {
            "/help": self._help,
            "/config_dump": self._config_dump,
            "/clusters": self._clusters,
            "/server_info": lambda _: envoy_pages.server_info(
                self._control.bootstrap, self._started_at, is_ready=self._is_ready()
            ),
            "/ready": self._ready,
            "/certs": lambda _: envoy_pages.certs(self._identity),
            "/stats": self._stats,
            "/stats/prometheus": lambda _: Answer(200, CONTENT_TYPE, self._monitoring.page()),
            "/api/status": lambda _: self._status(),
            "/api/overview": self._overview,
            "/api/clusters": lambda query: overview.clusters_of(
                self._control.directory, query.get("q", ""), _number(query, "first", 0), _number(query, "count", 100)
            ),
            "/api/endpoints": self._endpoints,
            "/api/routes": lambda query: overview.routes_of(
                self._control.directory, self._recent, query.get("q", ""), _number(query, "count", 100)
            ),
            "/api/resources": lambda query: overview.resources_of(
                self._entries(), self._changes.updated_at, query.get("q", ""), _number(query, "count", 100)
            ),
            "/api/changes": self._list_changes,
            "/api/change": self._change,
            "/api/requests": lambda query: [
                overview.request_of(one) for one in self._recent.after(_number(query, "after", 0))
            ],
            "/api/request": self._request,
            "/api/processes": self._processes,
        }

    def _help(self, query: Query) -> Answer:
        lines = [f"  {path}\n" for path in sorted([*self._paths, "/", "/api/explain (POST)"])]
        return Answer(200, _TEXT, b"admin paths are:\n" + "".join(lines).encode())

    def _is_ready(self) -> bool:
        """Whether some of what was asked for is there, or nothing was asked for."""
        return not self._control.problem

    def _ready(self, query: Query) -> Answer:
        is_ready = self._is_ready()
        return Answer(200 if is_ready else 503, _TEXT, b"LIVE\n" if is_ready else b"PRE_INITIALIZING\n")

    def _config_dump(self, query: Query) -> dict[str, Any]:
        entries = self._entries()
        with self._alone():
            return config_dump(entries, self._changes.updated_at, self._control.bootstrap, query)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Large answers are made one by one: each takes its moment of the interpreter from the application.

        Raises:
            TimeoutError: Others are still being made.
        """
        if not self._one_dump.acquire(timeout=_DUMP_SECONDS):
            raise TimeoutError("another dump is still being made")
        try:
            yield
        finally:
            self._one_dump.release()

    def _clusters(self, query: Query) -> Any:
        directory = self._control.directory
        if query.get("format") == "json":
            with self._alone():
                return envoy_pages.clusters_json(directory, self._recent)
        return Answer(200, _TEXT, envoy_pages.clusters_text(directory, self._recent).encode())

    def _stats(self, query: Query) -> Answer:
        if query.get("format") == "prometheus":
            return Answer(200, CONTENT_TYPE, self._monitoring.page())
        return Answer(200, _TEXT, envoy_pages.stats_text(self._control, self._started_at).encode())

    def _overview(self, query: Query) -> dict[str, Any]:
        self._control.call(self._look)
        directory, cache = self._control.directory, self._control.cache
        told = overview.clusters_of(directory, "", 0, 0)
        metrics = self._monitoring.metrics
        return {
            "process": overview.process_of(metrics, self._started_at),
            "port": self._port.port,
            "node": self._control.bootstrap.node.id,
            "version": directory.version,
            "problem": self._control.problem,
            "notes": list(self._control.bootstrap.notes),
            "identity": describe_identity(self._identity) if self._identity is not None else None,
            "clusters": told["total"],
            "troubled": told["troubled"],
            "endpoints": told["endpoints"],
            "resources": sum(map(cache.count, Status)),
            "rejected": cache.count(Status.NACKED),
            "graph": overview.graph_of(metrics),
            "bounds": BOUNDS,
            "last_request": self._recent.last,
            "last_change": self._changes.last,
        }

    def _endpoints(self, query: Query) -> list[dict[str, Any]]:
        name = query.get("cluster", "")
        cluster = self._control.directory.clusters.get(name)
        if cluster is None:
            raise _NotFound(f"there is no cluster {name!r}")
        return overview.endpoints_of(cluster, self._recent)

    def _list_changes(self, query: Query) -> list[dict[str, Any]]:
        self._control.call(self._look)
        return [overview.change_of(one) for one in self._changes.recent()]

    def _change(self, query: Query) -> dict[str, Any]:
        change = self._changes.find(_number(query, "number", 0))
        if change is None:
            raise _NotFound("that change is forgotten")
        return {**overview.change_of(change), "lines": overview.difference_of(change)}

    def _request(self, query: Query) -> dict[str, Any]:
        found = self._recent.find(_number(query, "number", 0))
        if found is None:
            raise _NotFound("that request is forgotten")
        return {
            **overview.request_of(found),
            "headers": overview.headers_of(found),
            "explanation": overview.explanation_of(found),
        }

    def _explained(self, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        if not isinstance(asked, dict):
            raise ValueError("the body must be an object of method, url and headers")
        headers = asked.get("headers") or {}
        if not (isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())):
            raise ValueError("headers must be an object of texts")
        url = httpx.URL(str(asked.get("url") or ""))
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("url must be absolute, such as http://reviews:9080/reviews/1")
        at = asked.get("at")
        if at is not None and not (isinstance(at, int | float) and 0 <= at < 1e11):
            raise ValueError("at must be in seconds since the epoch")
        moment = datetime.fromtimestamp(at, UTC) if at is not None else None
        decision = self._explain(str(asked.get("method") or "GET"), str(url), headers, at=moment)
        return overview.decision_of(decision)

    def _processes(self, query: Query) -> list[int]:
        """The ports of this and of other processes of the application, as far as they listen."""
        ports = range(self._first_port, self._first_port + _SPREAD)
        return [port for port in ports if port == self._port.port or _listens(self._address, port)]


def _listens(address: str, port: int) -> bool:
    """Whether a page of this library is there."""
    connection = http.client.HTTPConnection(address, port, timeout=0.3)
    try:
        connection.request("GET", "/server_info", headers={"Host": f"localhost:{port}"})
        answer = connection.getresponse()
        return answer.status == 200 and b'"user_agent_name": "meshsdk"' in answer.read(65536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _status_of(error: Exception) -> int:
    if isinstance(error, LookupError):
        return 404
    return 504 if isinstance(error, TimeoutError) else 400


def _json(found: Any) -> Answer:
    return Answer(200, _JSON, json.dumps(found, indent=1, ensure_ascii=False).encode("utf-8", "replace"))


def _number(query: Query, name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name} must be a number, is {text!r}")
    return int(text)
