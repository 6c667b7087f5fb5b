"""Whether a peer's certificate names who the configuration asks for.

The chain itself has been verified by the TLS handshake. Here its subject alternative names are compared with the
cluster's matchers (CertificateValidationContext.match_typed_subject_alt_names): one matcher must match one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import PeerIdentityError
from ..resources import SanMatcher, StringMatchKind
from ..routing.string_match import compile_string

__all__ = ["check_peer"]

# The names that ssl.SSLSocket.getpeercert() gives to the kinds of alternative name.
_KINDS = {"URI": "URI", "DNS": "DNS", "IP Address": "IP", "email": "EMAIL"}


def check_peer(certificate: Mapping[str, Any] | None, matchers: Iterable[SanMatcher]) -> None:
    """Refuse a peer whose certificate matches none of `matchers`.

    Args:
        certificate: As `getpeercert()` gives it.
        matchers: At least one.

    Raises:
        PeerIdentityError: No name matches; the message says which names the peer has and which were wanted.
    """
    names = [(_KINDS.get(kind, ""), value) for kind, value in (certificate or {}).get("subjectAltName", ())]
    wanted = list(matchers)
    for matcher in wanted:
        test = compile_string(matcher.value)
        for kind, value in names:
            if matcher.kind in (None, kind) and (test(value) or _dns_wildcard_matches(matcher, kind, value)):
                return
    shown = ", ".join(f"{kind}:{value}" for kind, value in names) or "no alternative names"
    asked = ", ".join(
        f"{matcher.kind or 'any'} {matcher.value.kind.value} {matcher.value.value!r}" for matcher in wanted
    )
    raise PeerIdentityError(f"the peer's certificate has {shown}; the cluster asks for {asked}")


def _dns_wildcard_matches(matcher: SanMatcher, kind: str, name: str) -> bool:
    """A certificate for *.example.com is one for a.example.com (Envoy: Utility::dnsNameMatch, exact matchers only)."""
    if kind != "DNS" or not name.startswith("*.") or matcher.value.kind is not StringMatchKind.EXACT:
        return False
    first_label, _, rest = matcher.value.value.lower().partition(".")
    return bool(first_label) and rest == name[2:].lower()
