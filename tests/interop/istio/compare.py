"""A folder as meshsdk translates it against istiod's answer: where they differ, fact by fact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshsdk.controlplane import FolderState
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.world import hosts_overlap

from .asking import requests_for
from .case import Case, Client, Request
from .client_view import OwnView
from .cluster_facts import cluster_facts
from .decision import Decision, decide, decide_as_istiod, leads_to_originals
from .inbound import compare_servers
from .istiod import Answer
from .named import Named, full_names, names_in
from .view import Profile, View, of_folder, of_grpc_profile, of_sidecar_profile

__all__ = ["Comparison", "Difference", "compare"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact in which the two differ.

    Attributes:
        fact: Its name, such as `request.timeouts.route` or `cluster.endpoints`.
        subject: The request, the cluster or the server.
        hosts: What hosts the request may mean by its host, or the cluster's host.
        destinations: The hosts of the clusters that it goes to.
        port: That is asked for.
        named: What the folder names.
        is_by_a_rules_host: A VirtualService has the host that the request names or means, and what becomes of the
            request is what becomes of it under that host's full name.
    """

    fact: str
    subject: str
    client: str
    ours: Any
    istiods: Any
    hosts: tuple[str, ...] = field(default=(), compare=False)
    destinations: tuple[str, ...] = field(default=(), compare=False)
    port: int = field(default=0, compare=False)
    named: Named = field(default=Named(), compare=False, repr=False)
    is_by_a_rules_host: bool = field(default=False, compare=False)

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
        profile: In which shape meshsdk's translation is asked, and by which of istiod's. For `client` it is not asked:
            it is compared what a client and a server of profile sidecar make of istiod's own bytes.
    """
    if profile == "client":
        return _compare_client(case, answer, limit)
    state, named = load(folder), names_in(case.documents)
    found: list[Difference] = []
    if answer.error:
        if not state.errors:
            warnings = [problem.text for problem in state.problems]
            found.append(Difference("refusal", "the folder", "all", f"taken; {warnings}", answer.error, named=named))
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
            mine, sees_through = decide(ours, request), leads_to_originals(ours, request)
            other = decide_as_istiod(theirs, beside, request, sees_through=sees_through)
            hosts = full_names(request.host, client.namespace)
            found += (
                replace(
                    one,
                    hosts=hosts,
                    destinations=tuple(name.rpartition("|")[2] for name, _ in mine.get("clusters", ())),
                    port=request.port,
                    named=named,
                    is_by_a_rules_host=_is_by_a_rules_host(ours, request, mine, hosts, named),
                )
                for one in _differing("request", str(request), client, mine, other)
            )
        for name in _cluster_names(ours, beside):
            clusters += 1
            mine_or_none, other_or_none = cluster_facts(ours, name), cluster_facts(beside, name)
            found += (
                replace(one, hosts=(name.rpartition("|")[2],), named=named)
                for one in _differing("cluster", name, client, _there(mine_or_none), _there(other_or_none))
            )
    verdicts, of_servers = compare_servers(case, state, answer, 2 * limit)
    found += [Difference(*one, named=named) for one in of_servers]
    return Comparison(decisions, clusters, verdicts, found)


def _compare_client(case: Case, answer: Answer, limit: int) -> Comparison:
    """What our client and server make of what istiod sends sidecars, against profile gRPC and an Envoy beside them."""
    found: list[Difference] = []
    decisions = 0
    if answer.error:
        # What a cluster refuses never comes to anybody.
        return Comparison(0, 0, 0, found)
    for client, (grpc, sidecar) in zip(case.clients, answer.clients, strict=True):
        ours, theirs, beside = (
            OwnView.of(sidecar, client),
            of_grpc_profile(grpc, client),
            of_sidecar_profile(sidecar, client),
        )
        for request in requests_for(case, client, limit):
            decisions += 1
            mine, sees_through = decide(ours, request), leads_to_originals(ours, request)
            by_envoy = decide(beside, request, sees_through=sees_through)
            by_grpc = decide_as_istiod(theirs, beside, request, sees_through=sees_through)
            found += _differing("request", str(request), client, mine, by_envoy)
            # Now and then istiod has a listener in one of its profiles, and none in the other.
            if by_grpc["answer"] == by_envoy["answer"]:
                found += _differing("request", str(request), client, mine, by_grpc)
        found += [Difference("parser", "a resource", str(client), one, "sent") for one in ours.sidecar.refused]
    verdicts, of_servers = compare_servers(case, FolderState(), answer, 2 * limit, as_sidecars=True)
    return Comparison(decisions, 0, verdicts, [*found, *(Difference(*one) for one in of_servers)])


def _is_by_a_rules_host(view: View, request: Request, mine: Decision, hosts: tuple[str, ...], named: Named) -> bool:
    """Whether a request is answered as under the full name of a host that a VirtualService has."""
    for host in hosts:
        if any(hosts_overlap(rule, host) for rule in named.rules):
            full = replace(request, host=host)
            if named.by_authority or _of_any_host(mine, request.authority) == _of_any_host(
                decide(view, full), full.authority
            ):
                return True
    return False


# Headers that say by which name a host was called.
_NAMING = ("host", "location", "x-envoy-original-host")


def _of_any_host(value: Any, authority: str, fact: str = "") -> Any:
    """A decision, in which nothing says by which name the host was called."""
    if isinstance(value, dict):
        return {name: _of_any_host(one, authority, name) for name, one in value.items()}
    if isinstance(value, list) and len(value) == 2 and value[0] in _NAMING:
        return [value[0], _of_any_host(value[1], authority, "host")]
    if isinstance(value, list | tuple):
        found = [_of_any_host(one, authority, fact) for one in value]
        return sorted(found, key=repr) if fact == "ways" else found
    if isinstance(value, str) and fact == "host":
        return "HOST" if value == authority else value.replace(f"://{authority}", "://HOST")
    return value


def _there(facts: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "none"} if facts is None else facts


def _cluster_names(ours: View, theirs: View) -> list[str]:
    """Those of services; istiod has some more that no request of a client goes to."""
    names = {*ours.clusters, *theirs.clusters, *theirs.kinds}
    return sorted(name for name in names if name.startswith("outbound|"))


# Facts that decide which others there are: where they differ, nothing else is worth telling.
_FIRST = ("answer", "type", "clusters")

# What a host gets that the mesh does not know, where only those that it knows may be called.
_REFUSAL = {"answer": "reply", "status": 502, "body": "", "headers": [], "fault": []}


def _differing(
    what: str, subject: str, client: Client, ours: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[Difference]:
    if theirs.get("answer") == "bytes" and ours.get("answer") == "forward":
        # Of bytes it is only to be said where they go.
        ours, theirs = {"clusters": ours["clusters"]}, {"clusters": theirs["clusters"]}
    if "timeouts" not in theirs:
        ours = {fact: value for fact, value in ours.items() if fact != "timeouts"}
    if _REFUSAL.items() <= theirs.items() and ours.get("answer") == "reply" and ours["status"] != _REFUSAL["status"]:
        # The host is not known there: no other fact of the two answers can be compared.
        ours = {"answer": f"reply {ours['status']}"}
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
