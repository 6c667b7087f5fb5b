"""What the demo shows: each scene changes something, and says what must be seen then."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from examples.bookinfo.fleet import Fleet

__all__ = ["SCENES", "Scene", "Seen"]


@dataclass
class Seen:
    """What the requests of one scene brought."""

    requests: int = 0
    failures: int = 0
    retries: int = 0
    reviews: Counter[str] = field(default_factory=Counter)
    ratings: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, page: dict[str, Any] | None, seconds: float) -> None:
        """Count one page; None is a page that did not come."""
        self.requests += 1
        self.seconds.append(seconds)
        reviews = (page or {}).get("reviews", {})
        if page is None or "error" in reviews or "error" in page["details"]:
            self.failures += 1
            return
        self.reviews[reviews["version"]] += 1
        stars = reviews.get("ratings")
        if stars is not None:
            self.ratings["unavailable" if "error" in stars else stars["replica"]] += 1
            self.retries += int(stars.get("attempts", 1)) - 1


Change = Callable[[Fleet], None]
Check = Callable[[Seen], str]


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        title: What happens.
        change: Does it.
        user: The end-user header of the requests.
        settled: Whether a page already shows the change.
        check: What is wrong with what was seen; empty where nothing is.
    """

    title: str
    change: Change
    check: Check
    settled: Callable[[Seen], bool]
    requests: int = 150
    user: str = ""


def _nothing(fleet: Fleet) -> None:
    pass


def _write(name: str, text: str) -> Change:
    def change(fleet: Fleet) -> None:
        (fleet.folder / name).write_text(text)

    return change


def _only(version: str) -> Check:
    def check(seen: Seen) -> str:
        if seen.failures:
            return f"{seen.failures} requests failed"
        return "" if set(seen.reviews) == {version} else f"expected only {version}, saw {dict(seen.reviews)}"

    return check


def _split(shares: dict[str, float]) -> Check:
    def check(seen: Seen) -> str:
        if seen.failures:
            return f"{seen.failures} requests failed"
        for version, share in shares.items():
            expected = seen.requests * share
            # Six standard deviations: by chance this fails once in 200 million runs.
            if abs(seen.reviews[version] - expected) > 6 * math.sqrt(expected * (1 - share)) + 1:
                return f"expected {share:.0%} to {version}, saw {dict(seen.reviews)}"
        return ""

    return check


def _ratings(*expected: str) -> Check:
    def check(seen: Seen) -> str:
        if seen.failures:
            return f"{seen.failures} requests failed"
        return "" if set(seen.ratings) == set(expected) else f"expected {expected}, saw {dict(seen.ratings)}"

    return check


_REVIEWS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
    - route: [{routes}]
"""


def _route(**weights: int) -> str:
    routes = ", ".join(
        f"{{destination: {{host: reviews, subset: {version}}}, weight: {weight}}}"
        for version, weight in weights.items()
    )
    return _REVIEWS.format(routes=routes)


_FAULT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
      route: [{destination: {host: ratings}}]
"""

_RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - timeout: 10s
      retries: {attempts: 3, perTryTimeout: 3s, retryOn: "connect-failure,reset,refused-stream"}
      route: [{destination: {host: ratings}}]
"""


def _kill(name: str) -> Change:
    return lambda fleet: fleet.kill(name)


SCENES = (
    Scene("everybody reads reviews v1", _nothing, _only("v1"), lambda seen: bool(seen.reviews)),
    Scene("Jason reads v2", _nothing, _only("v2"), lambda seen: bool(seen.reviews), requests=60, user="jason"),
    Scene(
        "edit: 80 % v1, 20 % v3",
        _write("reviews.yaml", _route(v1=80, v3=20)),
        _split({"v1": 0.8, "v3": 0.2}),
        lambda seen: bool(seen.reviews["v3"]),
        requests=400,
    ),
    Scene(
        "edit: everybody reads v3, which asks two ratings",
        _write("reviews.yaml", _route(v3=100)),
        _ratings("a", "b"),
        lambda seen: not seen.reviews["v1"] and bool(seen.reviews["v3"]),
    ),
    Scene(
        "edit: a fault aborts every call to ratings",
        _write("ratings.yaml", _FAULT),
        _ratings("unavailable"),
        lambda seen: set(seen.ratings) == {"unavailable"},
    ),
    Scene(
        "edit: the fault is gone",
        _write("ratings.yaml", _RETRIES),
        _ratings("a", "b"),
        lambda seen: bool(seen.ratings) and "unavailable" not in seen.ratings,
    ),
    Scene(
        "a ratings replica is killed; retries make up for it",
        _kill("ratings-b"),
        _ratings("a"),
        lambda seen: bool(seen.ratings["a"]),
        requests=200,
    ),
)
