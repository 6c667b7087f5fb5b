"""Names of peers while a mesh moves from one trust domain to another (istio/istio pilot/pkg/security/trustdomain)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["expand_domains", "replace_domains"]

# In a policy it points at the mesh's own domain, whatever that is.
_LOCAL = "cluster.local"


def replace_domains(principals: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """Principals, each under every name of the mesh's trust domain where its own is one of them."""
    found: list[str] = []
    for principal in principals:
        parts = principal.split("/")
        domain = parts[0]
        # What is not <domain>/ns/<namespace>/sa/<account>, and what any domain may have, stays as it is.
        is_enforced = len(parts) == 5 and domain != "*"
        if not is_enforced or not (domain == _LOCAL or any(_matches(domain, one) for one in domains)):
            found.append(principal)
            continue
        renamed = (principal if _is_suffix(domain, one) else "/".join([one, *parts[1:]]) for one in domains)
        found += dict.fromkeys(renamed)
    return tuple(found)


def expand_domains(values: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """Trust domains, with the aliases of the mesh's own."""
    found = [one for value in values for one in (domains if value in domains else (value,))]
    return tuple(dict.fromkeys(found))


def _is_suffix(pattern: str, domain: str) -> bool:
    return pattern.startswith("*") and domain.endswith(pattern[1:])


def _matches(one: str, other: str) -> bool:
    """Whether they are the same, with a star at the beginning or end of either."""
    pairs = ((one, other), (other, one))
    is_prefix = any(pattern.endswith("*") and domain.startswith(pattern[:-1]) for pattern, domain in pairs)
    return one == other or is_prefix or any(_is_suffix(pattern, domain) for pattern, domain in pairs)
