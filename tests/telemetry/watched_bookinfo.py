"""bookinfo under steady traffic, which a real Prometheus watches, and what that traffic really was."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

import meshsdk
from examples.bookinfo.fleet import SERVICES, VISITORS, Fleet

from ..patience import PATIENCE
from ..processes import OF_THE_MACHINE
from .real_prometheus import Answer, Prometheus, prometheus

__all__ = ["TRAFFIC_SECONDS", "Watched", "watched_bookinfo"]

TRAFFIC_SECONDS = 16.0
_PAUSE_SECONDS = 0.06
_USERS = ("", "jason", "tom", "jason")

# Tom has no luck with details; who asks for ratings, half of the time.
_ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - match: [{headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - match: [{headers: {end-user: {exact: tom}}}]
      route: [{destination: {host: reviews, subset: v3}}]
    - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http:
    - match: [{headers: {end-user: {exact: tom}}}]
      fault: {abort: {httpStatus: 500, percentage: {value: 100}}}
      route: [{destination: {host: details}}]
    - route: [{destination: {host: details}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - fault: {abort: {httpStatus: 503, percentage: {value: 50}}}
      route: [{destination: {host: ratings}}]
"""


@dataclass
class Watched:
    """What was done, and who saw it.

    Attributes:
        pages: By who asked: `visitors`, or `stranger`, who is not on the mesh.
        missing: Pages that there are not, asked for by visitors.
        refused: Details that visitors have asked for, and that a fault has kept from them.
        reviews: By version.
        details: By whether they came.
        ratings: By the version of reviews, and the replica or `unavailable`.
        seconds_of_pages: How long each took that visitors asked of the product page.
        began_at, ended_at: In seconds since the epoch.
    """

    prometheus: Prometheus
    began_at: float = 0.0
    ended_at: float = 0.0
    pages: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    refused: int = 0
    seconds_of_pages: list[float] = field(default_factory=list)
    reviews: Counter[str] = field(default_factory=Counter)
    details: Counter[bool] = field(default_factory=Counter)
    ratings: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at

    def during(self, query: str) -> Answer:
        """An answer of when the traffic still ran."""
        return self.prometheus.ask(query, self.ended_at)

    def counted(self, query: str) -> Answer:
        """What counters have gained by all of the traffic: rates only come near it."""
        before = {tuple(sorted(one.labels.items())): one.value for one in self.prometheus.ask(query, self.began_at)}
        after = self.prometheus.ask(query)
        gained = (one._replace(value=one.value - before.get(tuple(sorted(one.labels.items())), 0.0)) for one in after)
        return Answer(one for one in gained if one.value)

    def saw(self, who: str, page: httpx.Response) -> None:
        assert page.status_code == 200, page.text
        parts = page.json()
        self.pages[who] += 1
        self.details["error" not in parts["details"]] += 1
        version = parts["reviews"]["version"]
        self.reviews[version] += 1
        stars = parts["reviews"].get("ratings")
        if stars is not None:
            self.ratings[version, "unavailable" if "error" in stars else stars["replica"]] += 1


@contextmanager
def watched_bookinfo(folder: Path) -> Iterator[Watched]:
    """Bookinfo after its traffic, from another namespace and from outside; it and its Prometheus still run."""
    fleet = Fleet(folder)
    _change(fleet.folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OF_THE_MACHINE)]:
            patch.delenv(name)
        # Where all processes count.
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        with fleet:
            for name in SERVICES:
                fleet.wait_until_up(name, PATIENCE)
            for name, value in {**fleet.environment(VISITORS), "POD_NAMESPACE": "shop"}.items():
                patch.setenv(name, value)
            with meshsdk.Mesh() as mesh, prometheus(folder, fleet.prometheus_config("1s")) as running:
                running.wait_for_targets(len(fleet.metrics_ports))
                watched = Watched(running)
                _visit(mesh, fleet, watched)
                deadline = time.monotonic() + PATIENCE
                while running.ask("min(timestamp(up))").total() < watched.ended_at + 0.5:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                yield watched


def _change(folder: Path) -> None:
    """Other routes, limits for reviews, and mutual TLS for those that speak HTTP."""
    services = folder / "services.yaml"
    mutual = r"labels: {security.istio.io/tlsMode: istio, app: \1,"
    services.write_text(re.sub(r"labels: {app: (productpage|details|reviews),", mutual, services.read_text()))
    rules = folder / "destination-rules.yaml"
    limits = "connectionPool: {tcp: {maxConnections: 500}, http: {http2MaxRequests: 900, http1MaxPendingRequests: 800,"
    balancer = "loadBalancer: {simple: RANDOM}"
    rules.write_text(rules.read_text().replace(balancer, f"{balancer}\n    {limits} maxRetries: 7}}}}"))
    for name in ("reviews.yaml", "ratings.yaml"):
        (folder / name).unlink()
    (folder / "routes.yaml").write_text(_ROUTES)


def _visit(mesh: meshsdk.Mesh, fleet: Fleet, watched: Watched) -> None:
    stranger = f"http://127.0.0.1:{fleet.ports['productpage-v1']}/productpage"
    with mesh.client() as client, httpx.Client(trust_env=False, timeout=PATIENCE) as outside:
        mesh.wait_ready("productpage.default:9080", PATIENCE)
        watched.began_at = time.time()
        number = 0
        while time.time() < watched.began_at + TRAFFIC_SECONDS:
            user = _USERS[number % len(_USERS)]
            headers = {"end-user": user} if user else {}
            page = client.get("http://productpage.default:9080/productpage", headers=headers)
            watched.saw("visitors", page)
            watched.seconds_of_pages.append(page.elapsed.total_seconds())
            if number % 4 == 0:
                nothing = client.get("http://productpage.default:9080/nothing")
                assert nothing.status_code == 404
                watched.missing += 1
                watched.seconds_of_pages.append(nothing.elapsed.total_seconds())
                refused = client.get("http://details.default:9080/details/0", headers={"end-user": "tom"})
                assert refused.status_code == 500
                watched.refused += 1
                watched.saw("stranger", outside.get(stranger))
            number += 1
            time.sleep(_PAUSE_SECONDS)
        watched.ended_at = time.time()
