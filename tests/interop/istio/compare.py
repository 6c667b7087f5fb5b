"""A folder as meshsdk translates it against istiod's answer: where they differ, fact by fact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsdk.controlplane.folder import load

from .asking import requests_for
from .case import Case, Client
from .cluster_facts import cluster_facts
from .decision import decide, decide_as_istiod
from .inbound import compare_servers
from .istiod import Answer
from .view import Profile, View, of_folder, of_grpc_profile, of_sidecar_profile

__all__ = ["Comparison", "Difference", "compare"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact in which the two differ.

    Attributes:
        fact: Its name, such as `request.timeouts.route` or `cluster.endpoints`.
        subject: The request, the cluster or the server.
    """

    fact: str
    subject: str
    client: str
    ours: Any
    istiods: Any

    @property
    def kind(self) -> str:
        """What differences of one cause have in common: the fact, and of some facts both values."""
        says_it = self.fact in ("request.answer", "cluster.type")
        return f"{self.fact} {self.ours}/{self.istiods}" if says_it else self.fact

    def __str__(self) -> str:
        values = f"  ours    {_text(self.ours)}\n  istiod  {_text(self.istiods)}"
        return f"{self.fact}: {self.subject} (for {self.client})\n{values}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and where they differ."""

    decisions: int
    clusters: int
    verdicts: int
    differences: list[Difference]


def compare(case: Case, folder: Path, answer: Answer, limit: int = 160, profile: Profile = "grpc") -> Comparison:
    """Compare a case, whose folder lies at a path, with istiod's answer.

    Args:
        case: What is looked at.
        folder: Where its documents are.
        answer: istiod's.
        limit: Requests of each client at the most, and half of those that each server is asked.
        profile: In which shape meshsdk's translation is asked, and by which of istiod's.
    """
    state = load(folder)
    found: list[Difference] = []
    if answer.error:
        if not state.errors:
            warnings = [problem.text for problem in state.problems]
            found.append(Difference("refusal", "the folder", "all", f"taken; {warnings}", answer.error))
        return Comparison(1, 0, 0, found)
    if state.errors:
        found.append(Difference("refusal", "the folder", "all", state.errors, "taken"))
    decisions = clusters = 0
    for client, (grpc, sidecar) in zip(case.clients, answer.clients, strict=True):
        beside = of_sidecar_profile(sidecar, client)
        ours = of_folder(state, client, profile)
        theirs = of_grpc_profile(grpc, client) if profile == "grpc" else beside
        found += [
            Difference("parser", name, str(client), problem, "sent")
            for name, problem in (*theirs.refused.items(), *beside.refused.items())
            if name not in beside.kinds
        ]
        for request in requests_for(case, client, limit):
            decisions += 1
            mine, other = decide(ours, request), decide_as_istiod(theirs, beside, request)
            found += _differing("request", str(request), client, mine, other)
        for name in _cluster_names(ours, beside):
            clusters += 1
            mine_or_none, other_or_none = cluster_facts(ours, name), cluster_facts(beside, name)
            found += _differing("cluster", name, client, _there(mine_or_none), _there(other_or_none))
    verdicts, of_servers = compare_servers(case, state, answer, 2 * limit)
    found += [Difference(*one) for one in of_servers]
    return Comparison(decisions, clusters, verdicts, found)


def _there(facts: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "none"} if facts is None else facts


def _cluster_names(ours: View, theirs: View) -> list[str]:
    """Those of services; istiod has some more that no request of a client goes to."""
    names = {*ours.clusters, *theirs.clusters, *theirs.kinds}
    return sorted(name for name in names if name.startswith("outbound|"))


# Facts that decide which others there are: where they differ, nothing else is worth telling.
_FIRST = ("answer", "type", "clusters")


def _differing(
    what: str, subject: str, client: Client, ours: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[Difference]:
    if theirs.get("answer") == "bytes" and ours.get("answer") == "forward":
        # Of bytes it is only to be said where they go.
        ours, theirs = {"clusters": ours["clusters"]}, {"clusters": theirs["clusters"]}
    if "timeouts" not in theirs:
        ours = {fact: value for fact, value in ours.items() if fact != "timeouts"}
    for name in _FIRST:
        if ours.get(name) != theirs.get(name):
            other = theirs.get(name)
            if theirs.get("has_listener") is False:
                other = f"{other} without a listener"
            yield Difference(f"{what}.{name}", subject, str(client), ours.get(name), other)
            return
    ours, theirs = ({fact: one[fact] for fact in one if fact != "has_listener"} for one in (ours, theirs))
    yield from (
        Difference(fact, subject, str(client), mine, other) for fact, mine, other in _leaves(what, ours, theirs)
    )


def _leaves(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """The smallest parts that differ, by their path. Lists of one length are gone into, others are told as a whole."""
    if ours == theirs:
        return
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.get("") == theirs.get(""):
        for name in sorted({*ours, *theirs}):
            yield from _leaves(f"{path}.{name}", ours.get(name), theirs.get(name))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        if path.endswith((".request", ".response", ".headers", ".clusters")):
            yield path, ours, theirs
            return
        for mine, other in zip(ours, theirs, strict=True):
            yield from _leaves(path, mine, other)
    else:
        yield path, ours, theirs
