"""What a server says of itself when it begins: where it listens, and what stands in front of it."""

from __future__ import annotations

from collections.abc import Iterator

from ..inbound import InboundPolicy
from ..resources.filters.ext_authz import ExtAuthz
from ..resources.filters.jwt import JwtAuthentication
from ..resources.filters.rbac import Rbac, RbacAction
from ..resources.listener import FilterChain

__all__ = ["is_open_to_everybody", "what_stands_in_front"]


def what_stands_in_front(policy: InboundPolicy) -> str:
    """The modes of TLS, in PeerAuthentication's words, and how many policies there are, such as
    `mutual TLS STRICT, 3 policies`."""
    chains = list(_chains(policy))
    policies = _policies(chains)
    parts = [_tls(chains), f"{len(policies)} polic{'y' if len(policies) == 1 else 'ies'}" if policies else "no policy"]
    if any(isinstance(setting, JwtAuthentication) for setting in _settings(chains)):
        parts.append("JWT")
    return ", ".join(parts)


def is_open_to_everybody(policy: InboundPolicy) -> bool:
    """Whether no authorization policy decides on what comes in."""
    return not _policies(list(_chains(policy)))


def _chains(policy: InboundPolicy) -> Iterator[FilterChain]:
    if policy.listener is not None:
        yield from (chain for chain in policy.listener.all_chains if chain.manager is not None)


def _tls(chains: list[FilterChain]) -> str:
    secured = [chain.tls for chain in chains if chain.tls is not None]
    if not secured:
        return "plaintext"
    if not any(tls.require_client_certificate for tls in secured):
        return "TLS"
    return "mutual TLS PERMISSIVE" if len(secured) < len(chains) else "mutual TLS STRICT"


def _settings(chains: list[FilterChain]) -> Iterator[object]:
    for chain in chains:
        if chain.manager is not None:
            yield from (one.setting for one in chain.manager.listener.filters)


def _policies(chains: list[FilterChain]) -> set[str]:
    found: set[str] = set()
    for setting in _settings(chains):
        if not isinstance(setting, Rbac):
            continue
        if setting.rules is not None and setting.rules.action is not RbacAction.LOG:
            # istiod names a policy of xDS after each rule of an AuthorizationPolicy.
            found.update(one.name.partition("-rule[")[0] for one in setting.rules.policies)
        if setting.matcher is not None:
            found.add("matcher")
    found.update("ext_authz" for setting in _settings(chains) if isinstance(setting, ExtAuthz))
    return found
