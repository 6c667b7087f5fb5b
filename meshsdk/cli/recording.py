"""`meshsdk record` and `meshsdk replay`: what a change of the configuration would do to requests that were really sent.

A recording has a line of JSON for each different request: the request, how often it was sent, and the decision that was
made on it. Secrets are not in it, as they are not on the admin page that it is read from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from ..errors import MeshError
from ..mesh import Mesh

__all__ = ["VERDICTS", "Replayed", "record", "replay"]

_POLL_SECONDS = 0.5
# Of one request each, they would make all of them different.
_OF_ONE_REQUEST = frozenset(
    "x-request-id traceparent tracestate b3 x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled content-length"
    " x-envoy-peer-metadata x-envoy-peer-metadata-id".split()
)

# What may become of a request, the worst first.
VERDICTS = ("fails", "answered here", "elsewhere", "changed", "mended", "same")

_ANSWERS = ("redirect", "direct_response", "deny", "no_route")


class Replayed(NamedTuple):
    """One request of a recording, under another configuration.

    Attributes:
        verdict: One of VERDICTS.
        before, after: Where it went, and where it would go.
    """

    method: str
    url: str
    requests: int
    verdict: str
    before: str
    after: str


def record(url: str, seconds: float, tell: Callable[[float, int], None]) -> tuple[list[dict[str, Any]], int]:
    """The requests that a process sends within a time, by its admin page.

    Args:
        url: Of the page.
        tell: Called with the share of the time that has passed, and how many requests there are.

    Returns:
        Lines of a recording, and how many requests were missed because they came too fast.

    Raises:
        httpx.HTTPError: The page does not answer.
    """
    found: dict[str, dict[str, Any]] = {}
    missed = 0
    with httpx.Client(base_url=url, timeout=10.0, trust_env=False) as client:
        last = _json(client, "/api/overview", {})["last_request"]
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                tell(1 - left / seconds, len(found))
                newest = _json(client, "/api/requests", {"after": str(last)})
                if newest:
                    missed += max(0, newest[0]["number"] - last - len(newest))
                    last = newest[0]["number"]
                for line in newest:
                    missed += not _take(client, line, found)
                time.sleep(min(_POLL_SECONDS, max(0.0, left)))
        except KeyboardInterrupt:
            pass  # What was recorded until now is a recording.
    return list(found.values()), missed


def _json(client: httpx.Client, path: str, query: Mapping[str, str]) -> Any:
    return client.get(path, params=query).raise_for_status().json()


def _take(client: httpx.Client, line: Mapping[str, Any], found: dict[str, dict[str, Any]]) -> bool:
    """Add one request; False where it is forgotten already."""
    if line["side"] != "client":
        return True
    answer = client.get("/api/request", params={"number": str(line["number"])})
    if answer.status_code == 404:
        return False
    told = answer.raise_for_status().json()
    if told["explanation"] is None:
        return True  # It was for a host outside the mesh.
    headers = sorted([name.lower(), value] for name, value in told["headers"] if name.lower() not in _OF_ONE_REQUEST)
    key = json.dumps([told["method"], told["url"], headers])
    known = found.setdefault(
        key,
        {
            "method": told["method"],
            "url": told["url"],
            "headers": headers,
            "count": 0,
            "decision": told["explanation"],
        },
    )
    known["count"] += 1
    return True


def replay(path: Path, config: Path, namespace: str | None = None) -> Iterator[Replayed]:
    """What becomes of the requests of a recording under a folder's configuration.

    Args:
        path: The recording.
        config: The folder.
        namespace: Whose short names are meant.

    Raises:
        ValueError: The recording is none; the line is named.
        MeshError: The folder cannot be read.
    """
    with Mesh(config=config, namespace=namespace) as mesh:
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if text.strip():
                yield _replayed(mesh, _line(text, number))


def _line(text: str, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if not (line["decision"]["action"] and line["method"] and line["url"] and int(line["count"]) > 0):
            raise ValueError("it is empty")
        dict(line["headers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"line {number} is no request of `meshsdk record`: {error!r}") from None
    found: dict[str, Any] = line
    return found


def _replayed(mesh: Mesh, line: Mapping[str, Any]) -> Replayed:
    before = line["decision"]
    try:
        after = json.loads(json.dumps(mesh.explain(line["method"], line["url"], dict(line["headers"])).to_dict()))
    except (MeshError, TimeoutError) as error:
        return Replayed(line["method"], line["url"], line["count"], "fails", _shown(before), str(error))
    verdict = _verdict(before, after)
    return Replayed(line["method"], line["url"], line["count"], verdict, _shown(before), _shown(after))


def _verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if bool(_problem(before)) != bool(_problem(after)):
        return "fails" if _problem(after) else "mended"
    if _shares(before) != _shares(after):
        return "answered here" if after["action"] in _ANSWERS else "elsewhere"
    alike = ("action", "status", "location", "path", "host", "timeout_seconds", "retry", "fault")
    return "same" if all(before.get(name) == after.get(name) for name in alike) else "changed"


def _problem(decision: Mapping[str, Any]) -> str:
    """Why a request fails, or may fail; empty where it does not."""
    if decision["action"] in ("no_route", "deny"):
        return str(decision["problem"] or decision["action"])
    return "; ".join(one["problem"] for one in decision["clusters"] if one["problem"] and one["share"])


def _shares(decision: Mapping[str, Any]) -> dict[str, float]:
    return {one["name"]: round(one["share"], 4) for one in decision["clusters"] if one["share"]}


def _shown(decision: Mapping[str, Any]) -> str:
    problem = _problem(decision)
    if problem:
        return problem
    if decision["action"] in _ANSWERS:
        return f"{decision['action'].replace('_', ' ')} {decision['status'] or ''} {decision['location']}".strip()
    shares = _shares(decision)
    named = [name if share == 1 else f"{name} {share:.0%}" for name, share in shares.items()]
    return f"{', '.join(named)} {decision['path']}"
