"""Differences that are meant, and what looks like one and is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from .compare import Difference
from .known import explain
from .named import Named, full_names, names_in

REVIEWS = "reviews.default.svc.cluster.local"
NAMED = Named(
    rules=frozenset([REVIEWS, "*.other.org"]),
    headless=frozenset(["db.default.svc.cluster.local"]),
    passing=frozenset(["pass.default.svc.cluster.local"]),
    entries={"api.example.com": "NONE", "*.wild.example.com": "NONE", "static.example.com": "STATIC", "Up.COM": "DNS"},
    has_star=True,
    key_hosts=frozenset(["keys.example.com"]),
)


def request(host: str, ours: Any, istiods: Any, **more: Any) -> Difference:
    one = Difference("request.answer", f"GET http://{host}/x", "default", ours, istiods)
    such = {"hosts": full_names(host, "default"), "port": 80, "named": NAMED, "is_by_a_rules_host": True}
    return replace(one, **{**such, **more})


def cluster(host: str, fact: str, ours: Any, istiods: Any) -> Difference:
    return Difference(fact, f"outbound|80||{host}", "default", ours, istiods, hosts=(host,), named=NAMED)


def verdict(ours: Any, istiods: Any) -> Difference:
    return Difference("server.verdict", "a server", "all", ours, istiods, named=NAMED)


def names(kind: str, how: str, value: str) -> list[dict[str, Any]]:
    return [{"": "SanMatcher", "kind": kind, "value": {"": "StringMatcher", "kind": how, "value": value}}]


SANS = "cluster.tls.trust.san_matchers"
STAR = (
    'f.yaml: VirtualService/a: configuration is invalid: "headers": error parsing regexp: missing argument to'
    " repetition operator: `*`; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)"
)
REFUSAL = Difference("refusal", "the folder", "all", "taken; []", STAR, named=NAMED)

MEANT = {
    "a rule's host, nothing listens": request(REVIEWS, "forward", "passthrough without a listener"),
    "a rule's host by a short form": request("reviews.default", "no_route", "passthrough"),
    "a name that is none": request("reviews.", "no_route", "reply"),
    "a wildcard's, to what is looked up": request(
        "x.other.org", "forward", "passthrough", destinations=("api.example.com",), is_by_a_rules_host=False
    ),
    "looked up": cluster("api.example.com", "cluster.type", "LOGICAL_DNS", "ORIGINAL_DST"),
    "passed through": cluster("*.wild.example.com", "cluster.type", "none", "ORIGINAL_DST"),
    "headless": cluster("db.default.svc.cluster.local", "cluster.type", "EDS", "ORIGINAL_DST"),
    "by a rule": cluster("pass.default.svc.cluster.local", "cluster.type", "EDS", "ORIGINAL_DST"),
    "the server's own name": cluster(REVIEWS, SANS, names("DNS", "EXACT", REVIEWS), []),
    "anybody of the mesh": cluster(REVIEWS, SANS, names("URI", "PREFIX", "spiffe://cluster.local/"), []),
    "a place of keys": cluster("keys.example.com", "cluster.type", "STRICT_DNS", "none"),
    "a token without keys": verdict([401, "Jwks remote fetch is failed", {}], [401, "Jwt verification fails", {}]),
    "a star": REFUSAL,
    "as written": cluster("Up.COM", "cluster.type", "none", "EDS"),
    "in lower case": cluster("up.com", "cluster.type", "EDS", "none"),
}
NOT_MEANT = {
    "a rule's host that istiod answers": request(REVIEWS, "forward", "passthrough"),
    "a rule's host under REGISTRY_ONLY": request(REVIEWS, "forward", "reply"),
    "a host of nobody": request("reviews.default", "no_route", "passthrough", is_by_a_rules_host=False),
    "a rule's host on another port": request(REVIEWS, "forward", "passthrough without a listener", port=81),
    "a rule's host that goes past the mesh": request(REVIEWS, "passthrough", "passthrough without a listener"),
    "a full name with a dot": request(f"{REVIEWS}.", "no_route", "reply", is_by_a_rules_host=False),
    "a wildcard's, to a Service": request(
        "x.other.org", "forward", "passthrough", destinations=("api.example.com", REVIEWS), is_by_a_rules_host=False
    ),
    "to what is looked up, by no rule": request(
        "x.other.net", "forward", "passthrough", destinations=("api.example.com",), is_by_a_rules_host=False
    ),
    "a host outside with a dot": request("api.example.com.", "no_route", "reply", is_by_a_rules_host=False),
    "looked up, and there": cluster("static.example.com", "cluster.type", "LOGICAL_DNS", "ORIGINAL_DST"),
    "a wildcard that is looked up": cluster("*.wild.example.com", "cluster.type", "LOGICAL_DNS", "ORIGINAL_DST"),
    "a host that is not there": cluster("api.example.com", "cluster.type", "none", "ORIGINAL_DST"),
    "a Service of its own address": cluster(REVIEWS, "cluster.type", "EDS", "ORIGINAL_DST"),
    "another server's name": cluster(REVIEWS, SANS, names("DNS", "EXACT", "other.example"), []),
    "a name of another kind": cluster(REVIEWS, SANS, names("URI", "EXACT", REVIEWS), []),
    "some of its names": cluster(REVIEWS, SANS, names("DNS", "SUFFIX", REVIEWS), []),
    "a name that istiod has, too": cluster(
        REVIEWS, SANS, names("DNS", "EXACT", REVIEWS), names("DNS", "EXACT", "x.example")
    ),
    "more than the mesh": cluster(REVIEWS, SANS, names("URI", "PREFIX", "spiffe://cluster.local"), []),
    "a place of no keys": cluster("other.example.com", "cluster.type", "STRICT_DNS", "none"),
    "a token that istiod takes": verdict([401, "Jwks remote fetch is failed", {}], ["in", [], {}]),
    "a token that is audited": verdict(
        [401, "Jwks remote fetch is failed", {}], [401, "Jwt verification fails", {"a": 1}]
    ),
    "another text": verdict([401, "Jwt is expired", {}], [401, "Jwt verification fails", {}]),
    "a star beside another error": replace(REFUSAL, istiods=f"{STAR}\n* another"),
    "another regular expression": replace(REFUSAL, istiods=STAR.replace("`*`", "`+`")),
    "a star that nobody has written": replace(REFUSAL, named=Named()),
    "a host of no entry": cluster("Other.COM", "cluster.type", "none", "EDS"),
}


@pytest.mark.parametrize("name", MEANT)
def test_a_difference_is_excused(name: str) -> None:
    assert explain(MEANT[name])


@pytest.mark.parametrize("name", NOT_MEANT)
def test_a_difference_that_looks_alike_is_not(name: str) -> None:
    assert not explain(NOT_MEANT[name])


def test_documents_name_hosts_in_full() -> None:
    named = names_in(
        [
            {"kind": "VirtualService", "metadata": {"namespace": "x"}, "spec": {"hosts": ["A", "b.example"]}},
            {"kind": "Service", "metadata": {"name": "c"}, "spec": {"clusterIP": "None"}},
            {"kind": "Service", "metadata": {"name": "d"}, "spec": {}},
            {"kind": "ServiceEntry", "spec": {"hosts": ["e.example"]}},
        ]
    )
    assert named.rules == {"a.x.svc.cluster.local", "b.example"}
    assert named.headless == {"c.default.svc.cluster.local"}
    assert named.entries == {"e.example": "NONE"}


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("a", "a.x.svc.cluster.local"),
        ("A.y", "a.y.svc.cluster.local"),
        ("a.y.svc", "a.y.svc.cluster.local"),
        ("a.example.com.", "a.example.com"),
    ],
)
def test_short_names_stand_for_full_ones(host: str, full: str) -> None:
    assert full_names(host, "x")[-1] == full
