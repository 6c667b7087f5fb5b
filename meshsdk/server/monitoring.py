"""What a Mesh counts, and where that is told: a port, and applications to mount."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ..control import Control
from ..errors import ResourceError
from ..http.measured import Record
from ..istio_pod import told_metadata
from ..node import Node
from ..telemetry import shared_cells
from ..telemetry.cells import Memory
from ..telemetry.istio_metrics import IstioMetrics
from ..telemetry.lookup import watch_istio
from ..telemetry.prometheus import CONTENT_TYPE, exposition
from ..telemetry.service import Service
from ..telemetry.workload import UNKNOWN, Workload, own_workload
from .engine_metrics import OwnCertificate, engine_families
from .side_port import Answer, Asked, SidePort

__all__ = ["PATHS", "SERVICE_VARIABLE", "Monitoring"]

# Where Istio's agent has it, and where Prometheus looks when it is told nothing.
PATHS = ("/stats/prometheus", "/metrics")

SERVICE_VARIABLE = "MESHSDK_SERVICE"

_DEFAULT_ACCOUNT = "default"
_PAGE_SECONDS = 10.0
_TEXT = "text/plain; charset=utf-8"


class Monitoring:
    """Counts the requests of one Mesh.

    Args:
        control: Its inner side.
        port: Where it is told; None leaves it to the applications.
        account: The service account of the process, as far as it is known.
    """

    def __init__(self, control: Control, port: int | None, account: str = "") -> None:
        self._control = control
        self._certificate = OwnCertificate(control.secrets)
        node = control.bootstrap.node
        metadata = {**told_metadata(os.environ), **node.metadata}
        fallback = account if account != _DEFAULT_ACCOUNT else ""
        own = own_workload(metadata, node.namespace, fallback)
        self._control = control
        self._shared_port = port
        self._build = str(metadata.get("ISTIO_VERSION") or UNKNOWN)
        self.metrics = IstioMetrics(
            own,
            _own_service(own, node),
            Record,
            node.cluster_domain,
            node.id,
            metadata,
            lambda: _own_principal(control),
            self._make_memory,
            self._on_first,
        )
        # However many ask: a page takes memory, and a moment of a processor.
        self._one_page = threading.Lock()
        self._port = SidePort("metrics", port, self._answer, is_shared=self._is_shared) if port is not None else None
        if self._port is not None:
            # Others that are told the same port learn from our place that it is ours.
            _ = self.metrics.cells
        watch_istio(self.metrics)
        control.metrics = self.metrics
        control.follow_metrics()
        control.register(self)

    def page(self) -> bytes:
        """What a scrape is told.

        Raises:
            TimeoutError: Others ask, and something of the application's own does not answer.
        """
        if not self._one_page.acquire(timeout=_PAGE_SECONDS):
            raise TimeoutError("another page of metrics is still being made")
        try:
            logs = self._control.access_logs
            dropped = logs.dropped if logs is not None else None
            families = engine_families(self._control, self._certificate)
            return exposition(self.metrics, self._build, dropped, families)
        finally:
            self._one_page.release()

    def _answer(self, asked: Asked) -> Answer:
        if asked.path not in PATHS:
            return Answer(404, _TEXT, b"metrics are at /stats/prometheus\n")
        if asked.method != "GET":
            return Answer(405, _TEXT, b"metrics can only be read\n")
        return Answer(200, CONTENT_TYPE, self.page())

    def close(self) -> None:
        """Give the port back. What was counted can still be had by the applications."""
        if self._port is not None:
            self._port.close()

    def _after_fork(self) -> None:
        """See `http.dispatcher.Transport`."""
        self._one_page = threading.Lock()
        self.metrics.after_fork()
        if self._port is not None:
            self._port.after_fork()

    def _drop_removed(self) -> None:
        """See `http.dispatcher.Transport`."""
        self.metrics.drop_removed()

    async def asgi(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """The page as an ASGI application."""
        if scope["type"] != "http":
            return
        page = await asyncio.to_thread(self.page)
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(page))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page})

    def wsgi(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The page as a WSGI application."""
        page = self.page()
        start_response("200 OK", [("content-type", CONTENT_TYPE), ("content-length", str(len(page)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else page]

    def _make_memory(self) -> Memory:
        return shared_cells.open_memory(self._place())

    def _on_first(self) -> None:
        """The first request of this process: a forked child may have to tell for all when its parent ends."""
        if self._port is not None:
            self._port.start()

    def _is_shared(self) -> bool:
        return shared_cells.has_others(self._place())

    def _place(self) -> Path | None:
        # Of this very process: a worker's parent is not that of whoever has made the Mesh before workers were forked.
        return shared_cells.place_of(self._shared_port, os.environ)


def _own_service(own: Workload, node: Node) -> Service:
    """What the servers of this process are, as clients say it.

    istiod tells servers of its grpc profile nothing of it. A sidecar would fall back to the canonical name alone; both
    sides must say the same for Kiali to count a request once, so it is completed as clients complete it.
    """
    said = os.environ.get(SERVICE_VARIABLE) or own.canonical_service
    if said == UNKNOWN:
        return Service(namespace=own.namespace)
    labels = said.split(".")
    if len(labels) == 1:
        return Service(f"{said}.{own.namespace}.svc.{node.cluster_domain}", said, own.namespace)
    if len(labels) >= 3 and labels[2] == "svc":
        return Service(said, labels[0], labels[1])
    return Service(said, said, own.namespace)


def _own_principal(control: Control) -> str:
    try:
        return control.secrets.own_spiffe_id()
    except ResourceError:
        return ""
