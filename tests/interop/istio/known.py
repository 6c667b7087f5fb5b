"""Differences from istiod that are meant, and those that are not right yet.

Those that are meant stand in docs/istio-differences.md, each with its reason, under the name that it has here. What is
not right yet stands in `not_yet.txt`, a line for each case and kind of difference; a line that is not needed any more
fails the tests, as a difference without a line does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsdk.controlplane.world import hosts_overlap

from .compare import Difference
from .named import Named

__all__ = ["KNOWN", "NOT_YET", "Known", "explain", "kinds", "not_yet"]

NOT_YET = Path(__file__).parent / "not_yet.txt"


@dataclass(frozen=True, slots=True)
class Known:
    """A kind of difference that is meant.

    Attributes:
        name: Its heading in docs/istio-differences.md.
        case: One of the corpus that shows it.
        holds: Whether a difference is of this kind.
    """

    name: str
    case: str
    holds: Callable[[Difference], bool]


def _types(ours: str, istiods: str, is_such: Callable[[Named, str], bool]) -> Callable[[Difference], bool]:
    return lambda one: (
        one.fact == "cluster.type" and (one.ours, one.istiods) == (ours, istiods) and is_such(one.named, one.hosts[0])
    )


def _has_endpoints_anyway(named: Named, host: str) -> bool:
    return host in named.headless or host in named.passing


def _is_passed_through(named: Named, host: str) -> bool:
    return host.startswith("*") and named.entries.get(host) == "NONE"


def _is_looked_up(named: Named, host: str) -> bool:
    return not host.startswith("*") and named.entries.get(host) == "NONE"


_LOOKED_UP = _types("LOGICAL_DNS", "ORIGINAL_DST", _is_looked_up)


def _is_looked_up_here(one: Difference) -> bool:
    """The cluster, and requests on ports where a sidecar does not look at what it passes through."""
    is_unknown = one.fact == "request.answer" and one.istiods == "passthrough without a listener"
    is_such = any(_is_looked_up(one.named, host) for host in one.hosts)
    return _LOOKED_UP(one) or (is_unknown and one.ours == "forward" and is_such)


_HOST = re.compile(r"://([^/:]*)")


def _is_of_a_wildcard_to_the_looked_up(one: Difference) -> bool:
    """By a wildcard's route there is no host whose address the application would have looked up."""
    is_passed = one.ours == "forward" and str(one.istiods).startswith("passthrough")
    is_wildcards = any(
        rule.startswith("*") and hosts_overlap(rule, host) for rule in one.named.rules for host in one.hosts
    )
    leads_there = {one.named.entries.get(host) for host in one.destinations} == {"NONE"}
    return one.fact == "request.answer" and is_passed and is_wildcards and leads_there


def _is_of_a_rule(one: Difference) -> bool:
    """A sidecar has such hosts by their full names, and those only where something else has it listen."""
    if one.fact != "request.answer" or one.ours == "passthrough" or one.port != 80 or not one.is_by_a_rules_host:
        return False
    host = _HOST.search(one.subject)
    is_full = host is not None and any(hosts_overlap(rule, host[1].lower()) for rule in one.named.rules)
    if is_full:
        return one.istiods in ("passthrough without a listener", "reply without a listener")
    # The answer under REGISTRY_ONLY; by such a name a sidecar has no other.
    return one.istiods in ("passthrough", "passthrough without a listener", "reply", "reply without a listener")


def _is_no_name(one: Difference) -> bool:
    return (
        one.fact == "request.answer"
        and one.ours == "no_route"
        and one.istiods in ("reply", "reply without a listener")
        and re.search(r"://[a-z0-9-]+(\.[a-z0-9-]+(\.svc)?)?\.(:\d+)?/", one.subject) is not None
    )


def _names_the_server(one: Difference) -> bool:
    if one.fact.endswith("tls.sni"):
        return bool(one.ours == one.hosts[0] and not one.istiods)
    if not one.fact.endswith("tls.trust.san_matchers") or one.istiods or len(one.ours) != 1:
        return False
    matcher = one.ours[0]
    value = matcher["value"]
    return (matcher["kind"], value["kind"], value["value"]) == ("DNS", "EXACT", one.hosts[0])


def _is_of_the_mesh(one: Difference) -> bool:
    """Certificates of the mesh's own trust domains, where istiod takes any that its roots vouch for."""
    if not one.fact.endswith("tls.trust.san_matchers") or one.istiods or not one.ours:
        return False
    return all(
        (matcher["kind"], matcher["value"]["kind"]) == ("URI", "PREFIX")
        and re.fullmatch(r"spiffe://[^/]+/", matcher["value"]["value"])
        for matcher in one.ours
    )


def _leaves_out_the_unready(one: Difference) -> bool:
    if one.fact != "cluster.endpoints" or not one.istiods:
        return False
    return bool(one.ours == [endpoint for endpoint in one.istiods if endpoint["health"] != "UNHEALTHY"])


def _is_of_upper_case(one: Difference) -> bool:
    """The cluster that istiod has by the name as it is written, and the one in its place."""
    if one.fact != "cluster.type":
        return False
    [host] = one.hosts
    in_its_place = {written.lower() for written in one.named.entries if written != written.lower()}
    return (one.ours == "none" and host in one.named.entries and host != host.lower()) or (
        one.istiods == "none" and host in in_its_place
    )


_OF_A_STAR = re.compile(
    r'\S+: VirtualService/\S+: configuration is invalid: "(headers|queryParams)":'
    r" error parsing regexp: missing argument to repetition operator: `\*`; Istio uses RE2 style [^\n]*"
)


def _takes_a_star(one: Difference) -> bool:
    return one.fact == "refusal" and one.named.has_star and _OF_A_STAR.fullmatch(str(one.istiods)) is not None


_WITHOUT_KEYS = ("Jwt verification fails", "Jwks doesn't have key to match kid or alg from Jwt")


def _fetches_keys_itself(one: Difference) -> bool:
    """The cluster that keys come from, and the text for tokens where none come."""
    if one.fact == "cluster.type":
        return (one.ours, one.istiods) == ("STRICT_DNS", "none") and one.hosts[0] in one.named.key_hosts
    if one.fact != "server.verdict" or one.ours[:2] != [401, "Jwks remote fetch is failed"]:
        return False
    return one.istiods[0] == 401 and one.istiods[1] in _WITHOUT_KEYS and one.ours[2:] == one.istiods[2:]


KNOWN = (
    Known("A star for a regular expression", "refused_star_regex", _takes_a_star),
    Known("No original destination", "headless", _types("EDS", "ORIGINAL_DST", _has_endpoints_anyway)),
    Known("Hosts that are passed through", "service_entry_none", _types("none", "ORIGINAL_DST", _is_passed_through)),
    Known("Hosts that are looked up", "rule_to_passed_through_host", _is_looked_up_here),
    Known("Wildcards that lead to them", "wildcard_to_passed_through", _is_of_a_wildcard_to_the_looked_up),
    Known("Hosts that only a VirtualService has", "match_uri", _is_of_a_rule),
    Known("Short names that are none", "registry_only_passed_through", _is_no_name),
    Known("Servers that prove their name", "upstream_tls", _names_the_server),
    Known("Servers whose accounts are not known", "mutual_tls_of_unknown_accounts", _is_of_the_mesh),
    Known("Endpoints that are not ready", "unready_endpoints", _leaves_out_the_unready),
    Known("Keys that are fetched", "tokens_by_uri", _fetches_keys_itself),
    Known("Hosts in upper case", "odd_names", _is_of_upper_case),
)


def explain(difference: Difference) -> str:
    """The name of the known difference that this is; empty where it is none."""
    return next((known.name for known in KNOWN if known.holds(difference)), "")


def kinds(differences: Iterable[Difference]) -> dict[str, list[Difference]]:
    """Those that are not meant, by their kind."""
    found: dict[str, list[Difference]] = {}
    for one in differences:
        if not explain(one):
            found.setdefault(one.kind, []).append(one)
    return found


def not_yet() -> dict[str, set[str]]:
    """Kinds of differences that are not right yet, by the name of the case; `*` is any case."""
    found: dict[str, set[str]] = {}
    for line in NOT_YET.read_text().splitlines():
        if line and not line.startswith("#"):
            case, _, kind = line.partition(" ")
            found.setdefault(case, set()).add(kind)
    return found


def lines_for(found: dict[str, Any], everywhere: set[str]) -> str:
    """The file that says of these cases what is so.

    Args:
        found: Kinds of differences, by the name of the case.
        everywhere: Kinds that get one line for all cases.
    """
    head = "# What is not yet as istiod has it: a case, and a kind of difference that it shows. `*` is any case.\n"
    lines = {f"* {kind}" for kinds_of_case in found.values() for kind in kinds_of_case if kind in everywhere}
    lines |= {
        f"{case} {kind}" for case, kinds_of_case in found.items() for kind in kinds_of_case if kind not in everywhere
    }
    return head + "".join(f"{line}\n" for line in sorted(lines))
