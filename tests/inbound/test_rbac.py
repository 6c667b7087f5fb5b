"""Policies that are found by the names of a peer decide as if each had been tried in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk.inbound import Connection, InboundRequest
from meshsdk.inbound.filters.rbac import RbacStep, compile_condition
from meshsdk.resources import StringMatcher, StringMatchKind
from meshsdk.resources.filters.rbac import (
    AllOf,
    AnyOf,
    Authenticated,
    DestinationPortIs,
    Not,
    Rbac,
    RbacAction,
    RbacPolicy,
    RbacRules,
)
from meshsdk.routing import RequestHead
from meshsdk.security import PeerCertificate

NAMES = ("a", "b", "ab")

# Most are as Istio makes them.
exact = st.sampled_from([Authenticated(StringMatcher(StringMatchKind.EXACT, name)) for name in NAMES])
others = st.sampled_from(
    [
        Authenticated(None),
        Authenticated(StringMatcher(StringMatchKind.PREFIX, "a")),
        Authenticated(StringMatcher(StringMatchKind.EXACT, "a", ignore_case=True)),
        DestinationPortIs(80, 81),
    ]
)
leaves = exact | exact | others
some = st.lists(leaves | st.builds(Not, leaves), max_size=3).map(tuple)
joined = st.builds(AllOf, some) | st.builds(AnyOf, some)
principals = leaves | joined | st.builds(AllOf, st.lists(joined, max_size=2).map(tuple)) | st.builds(Not, joined)
permissions = st.sampled_from([AllOf(()), AllOf(()), DestinationPortIs(80, 81), Not(AllOf(()))])
policies = st.builds(lambda permission, *who: (AnyOf((permission,)), AnyOf(who)), permissions, principals)
peers = st.none() | st.lists(st.sampled_from((*NAMES, "A")), unique=True, max_size=2)


def request_of(names: list[str] | None, is_tls: bool, port: int) -> InboundRequest:
    peer = PeerCertificate((), "", "0", b"", tuple(names), "") if names is not None else None
    return InboundRequest(RequestHead("GET", "https", "web", "/"), Connection(is_tls, peer, destination_port=port))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(policies, min_size=1, max_size=3),
    st.sampled_from([RbacAction.ALLOW, RbacAction.DENY]),
    st.lists(st.tuples(peers, st.booleans(), st.sampled_from([80, 90])), min_size=1, max_size=4),
)
def test_policies_found_by_name_are_those_that_match_one_by_one(
    given_policies: list[tuple[AnyOf, AnyOf]],
    action: RbacAction,
    connections: list[tuple[list[str] | None, bool, int]],
) -> None:
    rules = tuple(RbacPolicy(f"p{number}", *policy) for number, policy in enumerate(given_policies))
    step = RbacStep(Rbac(RbacRules(action, rules)))
    for names, is_tls, port in connections:
        request = request_of(names, is_tls or names is not None, port)
        matches = [
            policy.name
            for policy in rules
            if compile_condition(policy.principals)(request) and compile_condition(policy.permissions)(request)
        ]
        reply = step(request)
        assert (reply is None) is (bool(matches) is (action is RbacAction.ALLOW))
        if reply is not None:
            assert reply.details == f"rbac_access_denied_matched_policy[{matches[0] if matches else 'none'}]"
