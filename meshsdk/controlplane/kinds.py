"""Whose a document is: ours, somebody else's, or one that may be a policy of ours and cannot be known.

Theory of operation. A document is *known* by its group, version and kind, exactly. One that is *not ours* is left out
with a warning. Between them stand those that somebody may have meant for us: a kind, group or version that is nearly
ours, a policy without a kind, a policy that slipped into another document. Left out, such a one would let in whom it
was to keep out: while there is one, nobody gets in (`UnreadablePolicy`). The border is stated in docs/security.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from ..errors import ConfigError

__all__ = ["CONFIG_MAP", "POLICY_KINDS", "Kind", "UnreadablePolicy", "did_you_mean", "kind_of"]

Kind = tuple[str, str]

SECURITY = "security.istio.io"
NETWORKING = "networking.istio.io"
TELEMETRY = "telemetry.istio.io"
GATEWAY = "gateway.networking.k8s.io"
CONFIG_MAP: Kind = ("", "ConfigMap")

# Kinds of which one that is left out would let somebody in.
POLICY_KINDS: tuple[Kind, ...] = (
    (SECURITY, "AuthorizationPolicy"),
    (SECURITY, "PeerAuthentication"),
    (SECURITY, "RequestAuthentication"),
)

# The versions that Istio's and Kubernetes' own servers know (istio/istio manifests/charts/base/files/crd-all.gen.yaml).
_VERSIONS: dict[Kind, tuple[str, ...]] = {
    **dict.fromkeys(POLICY_KINDS, ("v1", "v1beta1")),
    **{
        (NETWORKING, kind): ("v1", "v1beta1", "v1alpha3")
        for kind in ("ServiceEntry", "WorkloadEntry", "VirtualService", "DestinationRule", "Sidecar", "WorkloadGroup")
    },
    (TELEMETRY, "Telemetry"): ("v1", "v1alpha1"),
    ("", "Service"): ("v1",),
    ("", "Pod"): ("v1",),
    ("", "Endpoints"): ("v1",),
    ("", "Node"): ("v1",),
    CONFIG_MAP: ("v1",),
    ("discovery.k8s.io", "EndpointSlice"): ("v1", "v1beta1"),
    # sigs.k8s.io/gateway-api config/crd/experimental.
    (GATEWAY, "HTTPRoute"): ("v1", "v1beta1"),
    (GATEWAY, "GRPCRoute"): ("v1",),
    (GATEWAY, "TCPRoute"): ("v1", "v1alpha2"),
    (GATEWAY, "TLSRoute"): ("v1", "v1alpha3", "v1alpha2"),
    (GATEWAY, "ReferenceGrant"): ("v1", "v1beta1"),
}

# Of a client of Kubernetes; it has no metadata, which tells it from a ConfigMap.
_KUBECONFIG = "Config"

# Kinds of other people in the groups that are ours, too.
_OTHERS = {
    "": (_KUBECONFIG, "Namespace", "Secret", "ServiceAccount", "Event", "Binding", "PodTemplate", "LimitRange"),
    NETWORKING: ("Gateway", "EnvoyFilter", "ProxyConfig"),
    GATEWAY: ("Gateway", "GatewayClass", "ListenerSet", "UDPRoute", "BackendTLSPolicy"),
}

# What would change requests, and cannot: whoever wrote it must know.
_REFUSED: dict[Kind, str] = {
    (NETWORKING, "EnvoyFilter"): "it patches an Envoy's configuration, and there is no Envoy; say it as a raw listener,"
    ' route or cluster (documents with "@type")',
    ("extensions.istio.io", "WasmPlugin"): "it runs inside of an Envoy, and there is no Envoy",
    ("extensions.istio.io", "TrafficExtension"): "it runs inside of an Envoy, and there is no Envoy",
}
_GATEWAYS = ("Gateway", "GatewayClass", "ListenerSet", "XListenerSet")

# Others who have an AuthorizationPolicy.
_OWNERS_OF_SUCH = ("policy.linkerd.io",)
# Istio had its policies here before 1.6.
_FORMER_GROUPS = ("rbac.istio.io", "authentication.istio.io")


class UnreadablePolicy(ConfigError):
    """What is wrong is, or may be, a security policy: nobody gets in while it stands there."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'prefix'?`, or nothing."""
    near = _nearest(name, known, cutoff)
    return f"; did you mean {near!r}?" if near else ""


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str:
    return _nearest_of(name, tuple(known), cutoff)


# A dump has thousands of objects of a few kinds.
@lru_cache(maxsize=1024)
def _nearest_of(name: str, known: tuple[str, ...], cutoff: float) -> str:
    by_lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_lower, 1, cutoff)
    return by_lower[found[0]] if found else ""


def kind_of(data: Mapping[Any, Any], where: str) -> Kind | None:
    """Group and kind of a document that is ours; None of one that is not.

    Raises:
        UnreadablePolicy: It may be a policy.
        ConfigError: It is nearly another kind that is ours.
    """
    _refuse_policies_inside(data, where)
    kind, version = data.get("kind"), data.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        _refuse_policies_without_kind(data, where)
        return None
    if not isinstance(version, str):
        # Its key may be misspelt.
        version = next((one for one in data.values() if _is_version_of_security(one)), "")
    group, _, number = version.rpartition("/")
    versions = _VERSIONS.get((group, kind))
    if versions is not None and number in versions and data.get("apiVersion") == version:
        return group, kind
    _refuse_what_is_near(data, kind, group, version, where)
    if (why := _REFUSED.get((group, kind))) and not _is_for_gateways(data.get("spec")):
        raise ConfigError(where, f"{kind} is not carried out: {why}")
    return None


def _is_for_gateways(spec: Any) -> bool:
    """Whether all that an object is for are gateways, by its references or by the contexts of its patches."""
    if not isinstance(spec, dict):
        return False
    for name in ("targetRefs", "parentRefs"):
        references = spec.get(name)
        if isinstance(references, list) and references:
            # Of parentRefs a kind that is left out is Gateway.
            return all(isinstance(one, dict) and one.get("kind", "Gateway") in _GATEWAYS for one in references)
    patches = spec.get("configPatches")
    matches = [one.get("match") for one in patches if isinstance(one, dict)] if isinstance(patches, list) else []
    return bool(matches) and all(isinstance(one, dict) and one.get("context") == "GATEWAY" for one in matches)


def _refuse_what_is_near(data: Mapping[Any, Any], kind: str, group: str, version: str, where: str) -> None:
    unknown = f"{version or 'no apiVersion'} {kind} is not known"
    is_ours = not group or "istio" in group.lower()
    near = _nearest(kind, [one for _, one in POLICY_KINDS], 0.8)
    is_ours_alone = kind.lower() == near.lower() and group not in _OWNERS_OF_SUCH
    if _is_near_security(group) or (near and (is_ours or is_ours_alone or _likeness(group, SECURITY) >= 0.6)):
        raise UnreadablePolicy(where, unknown + _meant(kind, POLICY_KINDS))
    is_named_as_mesh_config = str(_folded(data.get("metadata")).get("name")).lower() == "istio" and "data" in data
    if not group and is_named_as_mesh_config and kind not in _OTHERS[""]:
        raise UnreadablePolicy(where, f"{unknown}; did you mean v1 {CONFIG_MAP[1]}?")
    if is_ours and data.keys() <= {"apiVersion", "kind"}:
        raise UnreadablePolicy(where, f"ends after its kind, {kind!r}: it may be the beginning of a policy")
    if kind in _OTHERS.get(group, ()) and not (kind == _KUBECONFIG and "metadata" in data):
        return
    nearly = [(of, one) for of, one in _VERSIONS if not version or _likeness(of, group) >= 0.8]
    if _nearest(kind, [one for _, one in nearly], 0.8):
        may_be_mesh_config = _nearest(kind, [CONFIG_MAP[1]], 0.8)
        raise (UnreadablePolicy if may_be_mesh_config else ConfigError)(where, unknown + _meant(kind, nearly))


@lru_cache(maxsize=1024)
def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _meant(kind: str, among: Iterable[Kind]) -> str:
    known = {one: of for of, one in among}
    near = _nearest(kind, known, 0.6)
    if not near:
        return f"; known are {', '.join(f'{of}/v1 {one}' for one, of in sorted(known.items()))}"
    of, versions = known[near], _VERSIONS[(known[near], near)]
    return f"; did you mean {' or '.join(f'{of}/{one}'.lstrip('/') for one in versions)} {near}?"


def _is_version_of_security(value: Any) -> bool:
    return isinstance(value, str) and "/" in value and _is_near_security(value.rpartition("/")[0])


def _is_near_security(group: str) -> bool:
    return group.lower() in _FORMER_GROUPS or _likeness(group, SECURITY) >= 0.8


# What a policy holds, by which one is known that has lost its kind; the second, what nobody else has.
_POLICY_FIELDS = frozenset(
    (
        *("action", "from", "jwks", "jwksuri", "jwtrules", "matchlabels", "mtls", "notvalues", "operation"),
        *("portlevelmtls", "principals", "requestprincipals", "rules", "selector", "source", "targetrefs", "when"),
    )
)
_ONLY_OF_POLICIES = frozenset(("jwtrules", "mtls", "portlevelmtls", "requestprincipals"))
_LISTENER_FIELDS = ("@type", "filter_chains", "filterchains")
_ENVELOPE = ("apiversion", "kind", "metadata", "spec", "data")


def _folded(value: Any) -> dict[str, Any]:
    """An object with its keys in small letters; empty for anything else."""
    return {str(key).lower(): one for key, one in value.items()} if isinstance(value, dict) else {}


def _refuse_policies_without_kind(document: Mapping[Any, Any], where: str) -> None:
    """A document without a kind may be anything: Helm's values, a compose file, a policy that lost its first lines."""
    data = _folded(document)
    spec, envelope = _folded(data.get("spec")), _near_envelope(data)
    version = str(data.get("apiversion") or "")
    is_chart = version in ("v1", "v2") and "name" in data and "version" in data
    why = ""
    if "apiversion" in envelope and not is_chart and (len(data) == 1 or _may_begin(version)):
        why = "it has an apiVersion"
    elif data.keys() == {"kind"}:
        why = "it ends there"
    elif any(map(_is_version_of_security, data.values())):
        why = "it has the version of one"
    elif len(envelope) > 1:
        why = f"it has {' and '.join(sorted(envelope))}"
    elif _has_policy_fields(data) or _has_policy_fields(spec):
        why = "it has fields of one"
    elif len(_near_envelope(spec)) > 1:
        why = "its spec has a spec"
    elif "socket_address" in _folded(data.get("address")) or any(
        name != "type" and _nearest(name, _LISTENER_FIELDS, 0.75) for name in (*data, *spec)
    ):
        why = "it has fields of a listener"
    if why:
        raise UnreadablePolicy(
            f"{where}.kind", f'must be set (or "@type", for an xDS resource): this may be a policy, since {why}'
        )


def _near_envelope(names: Iterable[str]) -> set[str]:
    # A version alone is somebody else's.
    return {near for name in names if name != "version" and (near := _nearest(name, _ENVELOPE, 0.75))}


def _may_begin(version: str) -> bool:
    group = version.rpartition("/")[0]
    return not version or f"{SECURITY}/v1beta1".startswith(version) or _is_near_security(group or version)


def _has_policy_fields(names: Iterable[str]) -> bool:
    found = _POLICY_FIELDS.intersection(names)
    return len(found) > 1 or not found.isdisjoint(_ONLY_OF_POLICIES)


def _refuse_policies_inside(data: Mapping[Any, Any], where: str) -> None:
    """A whole policy below another document's field: a separator is lost, or it is indented too far."""
    for inner in _objects_below(data):
        if what := _policy_of(inner):
            raise UnreadablePolicy(where, f"has a {what} inside of it, without effect there; let it stand by itself")


def _policy_of(inner: Mapping[Any, Any]) -> str:
    """Which policy an object is that stands inside another; empty for references, such as an owner's."""
    data = _folded(inner)
    if str(data.get("@type")).lower().endswith(".listener"):
        return "Listener"
    kind, version, metadata = data.get("kind"), data.get("apiversion"), _folded(data.get("metadata"))
    if not metadata and not isinstance(data.get("spec"), dict):
        return ""
    is_config_map = str(kind).lower() == CONFIG_MAP[1].lower() or "mesh" in _folded(data.get("data"))
    if is_config_map and str(metadata.get("name")).lower() == "istio":
        return CONFIG_MAP[1]
    if _is_version_of_security(version):
        return kind if isinstance(kind, str) else "policy"
    near = _nearest(kind, [one for _, one in POLICY_KINDS], 0.8) if isinstance(kind, str) else ""
    is_exact = bool(near) and str(kind).lower() == near.lower()
    is_policy = near and (is_exact or not isinstance(version, str) or "istio" in version.lower())
    is_others = isinstance(version, str) and version.rpartition("/")[0] in _OWNERS_OF_SUCH
    return str(kind) if is_policy and not is_others else ""


# Without one of these keys, in any case, an object is none of a policy, a MeshConfig and a listener.
_TELLTALE = ("@type", "metadata", "spec")
# Keys that are none of them, and how many are remembered: asked of thousands of objects, one by one they take long.
_PLAIN_KEYS: set[Any] = set()
_MAX_PLAIN_KEYS = 4096


def _objects_below(data: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    """The objects below a document's fields that have a telltale key.

    What aliases share is looked at each time; the reader has bounded how much that is.
    """
    waiting: list[Any] = [value for value in data.values() if type(value) is dict or type(value) is list]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            if not (value.keys() <= _PLAIN_KEYS or _is_plain(value)):
                yield value
            value = value.values()
        waiting += [one for one in value if type(one) is dict or type(one) is list]


def _is_plain(data: Mapping[Any, Any]) -> bool:
    if any(str(key).lower() in _TELLTALE for key in data):
        return False
    if len(_PLAIN_KEYS) < _MAX_PLAIN_KEYS:
        _PLAIN_KEYS.update(data)
    return True
