"""Role-based access control, carried out.

A policy's conditions are compiled to functions of the request once; a request costs a walk of those that are needed.

Sources: Envoy source/extensions/filters/common/rbac/{engine_impl,matchers}.cc; docs, http_filters/rbac_filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...errors import ResourceError
from ...exchange.local_reply import LocalReply
from ...resources import HeaderMatcher, SanMatcher, StringMatcher, StringMatchKind
from ...resources.filters.rbac import (
    AddressKind,
    AllOf,
    AnyOf,
    Authenticated,
    DestinationPortIs,
    FromAddress,
    HasName,
    HeaderIs,
    MetadataIs,
    Not,
    PathIs,
    PathTemplateIs,
    Rbac,
    RbacAction,
    RbacCondition,
    RbacPolicy,
    RbacRules,
    ServerNameIs,
    UpstreamIs,
)
from ...resources.filters.rbac_matcher import Matcher
from ...resources.filters.set_filter_state import FilterStateIs
from ...resources.filters.settings import FilterSetting
from ...routing.conditions import compile_header, no_chance
from ...routing.string_match import compile_regex_match, compile_string
from ...security.peer_identity import compile_san
from ..connection import is_within, parse_address
from ..replies import access_denied
from ..request import InboundRequest
from .cel import compile_cel
from .compiling import Place, Said, Step, of_route
from .metadata import compile_metadata
from .rbac_matcher import compile_matcher
from .set_filter_state import compile_filter_state

__all__ = ["RbacStep", "compile_condition", "compile_filter"]

Test = Callable[[InboundRequest], bool]


def _always(request: InboundRequest) -> bool:
    return True


def _never(request: InboundRequest) -> bool:
    return False


def compile_condition(condition: RbacCondition) -> Test:
    """A function that says whether a condition holds for a request."""
    match condition:
        case AllOf(conditions=inner):
            return _all([compile_condition(one) for one in inner])
        case AnyOf(conditions=inner):
            return _any([compile_condition(one) for one in inner])
        case Not(condition=inner_one):
            test = compile_condition(inner_one)
            return lambda request: not test(request)
        case HeaderIs(matcher=header) if _asks_for_a_method(header):
            assert header.string is not None
            method = header.string.value
            return lambda request: request.head.method == method
        case HeaderIs(matcher=header):
            holds = compile_header(header).holds
            return lambda request: holds(request.head, no_chance)
        case PathIs(matcher=string):
            matches = compile_string(string)
            # Envoy's PathMatcher leaves out the query and the fragment.
            return lambda request: matches(request.head.path.partition("#")[0])
        case PathTemplateIs(template=template):
            full_match = compile_regex_match(template.regex)
            return lambda request: full_match(request.head.path.partition("#")[0])
        case FromAddress():
            return _from_address(condition)
        case DestinationPortIs(start=start, end=end):
            return lambda request: start <= request.connection.destination_port < end
        case ServerNameIs(matcher=string):
            matches = compile_string(string)
            return lambda request: matches(request.connection.server_name)
        case Authenticated():
            return _authenticated(condition)
        case HasName(matcher=san):
            return _has_name(san)
        case FilterStateIs():
            return compile_filter_state(condition)
        case UpstreamIs():
            return _never
        case MetadataIs(matcher=metadata, of_route=of_route):
            return compile_metadata(metadata, of_route=of_route)
        case _:
            raise ResourceError("rbac", f"{type(condition).__name__} is a condition that is not carried out")


def _all(tests: list[Test]) -> Test:
    tests = [one for one in tests if one is not _always]
    if not tests:
        return _always
    if len(tests) == 1:
        return tests[0]

    def test(request: InboundRequest) -> bool:
        for one in tests:  # noqa: SIM110 - a generator costs as much as the tests.
            if not one(request):
                return False
        return True

    return test


def _any(tests: list[Test]) -> Test:
    if not tests:
        return _never
    if len(tests) == 1:
        return tests[0]

    def test(request: InboundRequest) -> bool:
        for one in tests:  # noqa: SIM110 - as above.
            if one(request):
                return True
        return False

    return test


def _asks_for_a_method(header: HeaderMatcher) -> bool:
    """The commonest header condition; a method is always there, and needs no list of values."""
    string = header.string
    if header.name != ":method" or header.invert or string is None:
        return False
    return string.kind is StringMatchKind.EXACT and not string.ignore_case


def _from_address(condition: FromAddress) -> Test:
    networks, kind = (condition.network,), condition.kind
    if kind is AddressKind.REMOTE:
        return lambda request: is_within(request.remote, networks)
    if kind is AddressKind.DESTINATION:
        return lambda request: is_within(parse_address(request.connection.destination_ip), networks)
    return lambda request: is_within(parse_address(request.connection.source_ip), networks)


def _authenticated(condition: Authenticated) -> Test:
    if condition.matcher is None:
        # Envoy: TLS is enough; whether a certificate must be shown is the filter chain's to say.
        return lambda request: request.connection.is_tls
    matches = compile_string(condition.matcher)

    def test(request: InboundRequest) -> bool:
        return any(map(matches, _principals(request)))

    def test_exactly(request: InboundRequest) -> bool:
        return wanted in _principals(request)

    wanted = condition.matcher.value
    is_exact = condition.matcher.kind is StringMatchKind.EXACT and not condition.matcher.ignore_case
    return test_exactly if is_exact else test


def _has_name(matcher: SanMatcher | None) -> Test:
    if matcher is None:
        return lambda request: request.connection.peer is not None
    matches = compile_san(matcher)

    def test(request: InboundRequest) -> bool:
        peer = request.connection.peer
        return peer is not None and matches(peer)

    return test


_NOBODY: tuple[str, ...] = ()
_NO_NAME = ("",)


def _principals(request: InboundRequest) -> tuple[str, ...]:
    """The peer's names; over TLS a peer without a certificate has an empty one, as in Envoy."""
    connection = request.connection
    peer = connection.peer
    if peer is not None:
        return peer.principals
    return _NO_NAME if connection.is_tls else _NOBODY


# A service has few peers.
_MAX_KNOWN_PEERS = 1024


class _CompiledRules:
    """Rules, with the policies that are for certain peers only found by their names.

    Args:
        rules: The rules.
    """

    def __init__(self, rules: RbacRules) -> None:
        self.action = rules.action
        self._policies = tuple((policy.name, _compile_policy(policy)) for policy in rules.policies)
        self._of_peers: dict[str, frozenset[int]] = {}
        of_anybody = set()
        for place, policy in enumerate(rules.policies):
            wanted = _only_for(policy.principals)
            if wanted is None:
                of_anybody.add(place)
            for name in wanted.names if wanted is not None else ():
                self._of_peers[name] = self._of_peers.get(name, frozenset()) | {place}
        self._of_anybody = frozenset(of_anybody)
        self._known: dict[tuple[str, ...], tuple[tuple[str, Test], ...]] = {}

    def matching(self, request: InboundRequest) -> str | None:
        """The first policy that matches, in order of names."""
        principals = _principals(request)
        policies = self._known.get(principals)
        if policies is None:
            policies = self._policies_for(principals)
        for name, test in policies:
            if test(request):
                return name
        return None

    def _policies_for(self, principals: tuple[str, ...]) -> tuple[tuple[str, Test], ...]:
        """Those that may be for a peer."""
        places = self._of_anybody.union(*(self._of_peers.get(name, ()) for name in principals))
        if len(self._known) >= _MAX_KNOWN_PEERS:
            self._known.clear()
        policies = self._known[principals] = tuple(self._policies[place] for place in sorted(places))
        return policies


class _Wanted(NamedTuple):
    """Names of which a peer must have one for a condition to hold, and whether that is all that it asks for."""

    names: frozenset[str]
    is_all: bool = True


def _only_for(condition: RbacCondition) -> _Wanted | None:
    """Whom a condition is for; None where it may hold for anybody."""
    match condition:
        case Authenticated(matcher=StringMatcher(kind=StringMatchKind.EXACT, value=name, ignore_case=False)):
            return _Wanted(frozenset({name}))
        case AnyOf(conditions=inner):
            wanted = [_only_for(one) for one in inner]
            known = [one for one in wanted if one is not None]
            if len(known) != len(wanted):
                return None
            return _Wanted(frozenset().union(*(one.names for one in known)), all(one.is_all for one in known))
        case AllOf(conditions=inner):
            # Whoever meets all meets the first of these, too.
            first = next((wanted for wanted in map(_only_for, inner) if wanted is not None), None)
            return first if first is None or len(inner) == 1 else first._replace(is_all=False)
        case _:
            return None


def _compile_rules(rules: RbacRules | None) -> _CompiledRules | None:
    return _CompiledRules(rules) if rules is not None else None


def _compile_policy(policy: RbacPolicy) -> Test:
    """What is left to be asked once the policies of a peer are found by its names."""
    wanted = _only_for(policy.principals)
    # Who asks is looked at first: most policies are for somebody else, and that costs least to see.
    tests = [] if wanted is not None and wanted.is_all else [compile_condition(policy.principals)]
    tests.append(compile_condition(policy.permissions))
    return _all(tests if policy.condition is None else [*tests, compile_cel(policy.condition)])


class RbacStep:
    """The filter for one route."""

    __slots__ = ("_enforced_keys", "_prefix", "_rules", "_shadow", "_shadow_keys")

    def __init__(self, settings: Rbac) -> None:
        self._rules = _verdicts(settings.rules, settings.matcher)
        self._shadow = _verdicts(settings.shadow_rules, settings.shadow_matcher)
        self._prefix = settings.rules_prefix
        self._enforced_keys = _keys(f"{settings.rules_prefix}enforced")
        self._shadow_keys = _keys(f"{settings.shadow_prefix}shadow")

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Let the request pass, or refuse it."""
        shadow, rules = self._shadow, self._rules
        if shadow is not None:
            is_allowed, policy, _ = shadow(request)
            # What Istio's CUSTOM action and dry runs look at (docs, rbac_filter, dynamic metadata).
            _tell(request, self._shadow_keys, policy, is_allowed)
        if rules is None:
            return None
        is_allowed, policy, is_logged = rules(request)
        _tell(request, self._enforced_keys, policy, is_allowed)
        if is_logged:
            request.metadata.setdefault("envoy.common", {})["access_log_hint"] = policy is not None
            if policy is not None:
                request.audit.append(("audit_policy", policy))
        if is_allowed:
            return None
        return access_denied(self._prefix + policy if policy is not None else "none")


def _keys(prefix: str) -> tuple[str, str]:
    """Of a result in the filter's metadata (docs, rbac_filter, dynamic metadata)."""
    return f"{prefix}_engine_result", f"{prefix}_effective_policy_id"


def _tell(request: InboundRequest, keys: tuple[str, str], policy: str | None, is_allowed: bool) -> None:
    """Tell later filters, and what formats headers."""
    told = request.metadata.get("envoy.filters.http.rbac")
    if told is None:
        told = request.metadata["envoy.filters.http.rbac"] = {}
    told[keys[0]] = "allowed" if is_allowed else "denied"
    if policy is not None:
        told[keys[1]] = policy


# Whether a request may pass, by which policy, and whether that is to be logged.
Verdict = tuple[bool, str | None, bool]


def _verdicts(rules: RbacRules | None, matcher: Matcher | None) -> Callable[[InboundRequest], Verdict] | None:
    """What rules or a matcher say of requests; a matcher's rules are not looked at."""
    if matcher is not None:
        find = compile_matcher(matcher)

        def by_matcher(request: InboundRequest) -> Verdict:
            found = find(request)
            # Whatever no matcher knows is denied.
            return (
                (False, None, False) if found is None else (found.action != "DENY", found.name, found.action == "LOG")
            )

        return by_matcher
    compiled = _compile_rules(rules)
    if compiled is None:
        return None
    action = compiled.action

    def by_rules(request: InboundRequest) -> Verdict:
        policy = compiled.matching(request)
        if action is RbacAction.LOG:
            return True, policy, True
        return (policy is not None) is (action is RbacAction.ALLOW), policy, False

    return by_rules


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route."""
    rbac = of_route(said, Rbac) or own
    if not isinstance(rbac, Rbac):
        return None
    says_something = any((rbac.rules, rbac.shadow_rules, rbac.matcher, rbac.shadow_matcher))
    return RbacStep(rbac) if says_something else None
