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

from .compare import Difference

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


def _types(ours: str, istiods: str) -> Callable[[Difference], bool]:
    return lambda one: one.fact == "cluster.type" and (one.ours, one.istiods) == (ours, istiods)


def _has_no_listener(one: Difference) -> bool:
    return (
        one.fact == "request.answer" and one.istiods == "passthrough without a listener" and one.ours != "passthrough"
    )


_HOST = re.compile(r"://([^/:?]*)")


def _is_short_form(one: Difference) -> bool:
    host = _HOST.search(one.subject)
    is_short = host is not None and (host[1].endswith((".", ".svc")) or host[1].count(".") < 2)
    is_unknown = one.istiods == "passthrough" or (one.istiods == "reply" and one.ours in ("no_route", "forward"))
    return is_short and one.fact == "request.answer" and is_unknown and one.ours != "passthrough"


def _has_no_limit(one: Difference) -> bool:
    is_idle = one.fact in ("request.timeouts.idle", "request.timeouts.shortest_idle")
    return is_idle and one.ours is None and one.istiods == 300.0


def _names_the_server(one: Difference) -> bool:
    host = one.subject.rpartition("|")[2]
    if one.fact.endswith("tls.sni"):
        return bool(one.ours == host and not one.istiods)
    return one.fact.endswith("tls.trust.san_matchers") and not one.istiods and len(one.ours) == 1


def _leaves_out_the_unready(one: Difference) -> bool:
    if one.fact != "cluster.endpoints" or not one.istiods:
        return False
    return bool(one.ours == [endpoint for endpoint in one.istiods if endpoint["health"] != "UNHEALTHY"])


def _is_of_upper_case(one: Difference) -> bool:
    return one.fact == "cluster.type" and "none" in (one.ours, one.istiods) and one.subject.endswith("example.COM")


def _is_lower_case_of_it(one: Difference) -> bool:
    return one.fact == "cluster.type" and (one.ours, one.istiods) == ("EDS", "none") and "upper" in one.subject


def _takes_a_star(one: Difference) -> bool:
    return one.fact == "refusal" and "argument to repetition operator: `*`" in str(one.istiods)


KNOWN = (
    Known("A star for a regular expression", "refused_star_regex", _takes_a_star),
    Known("No original destination", "headless", _types("EDS", "ORIGINAL_DST")),
    Known("Hosts that are passed through", "service_entry_none", _types("none", "ORIGINAL_DST")),
    Known("Hosts that are looked up", "rule_to_passed_through_host", _types("LOGICAL_DNS", "ORIGINAL_DST")),
    Known(
        "Hosts that only a VirtualService has", "match_uri", lambda one: _has_no_listener(one) or _is_short_form(one)
    ),
    Known("Streams that stand still", "headless", _has_no_limit),
    Known("Servers that prove their name", "upstream_tls", _names_the_server),
    Known("Endpoints that are not ready", "unready_endpoints", _leaves_out_the_unready),
    Known("Hosts in upper case", "odd_names", lambda one: _is_of_upper_case(one) or _is_lower_case_of_it(one)),
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
