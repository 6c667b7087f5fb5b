"""What a DestinationRule must be for Istio's own servers to take it.

Source: istio pkg/config/validation/validation.go (ValidateDestinationRule), agent/validation.go (ValidateTLS,
ValidateLocalityLbSetting).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .checks import check_duration, check_export_to, check_host, check_labels, check_name
from .fields import Fields

__all__ = ["check_destination_rule"]


def check_destination_rule(spec: Fields, namespace: str) -> None:
    """All of it."""
    check_host(spec, "host", spec.required_text("host"))
    _check_policy(spec.child("trafficPolicy"), _OF_POLICY)
    names: set[str] = set()
    for subset in spec.children("subsets"):
        name = subset.text("name")
        check_name(subset, "name", name)
        if name in names:
            raise subset.error("name", f"{name!r} stands twice")
        names.add(name)
        check_labels(subset, "labels")
        _check_policy(subset.child("trafficPolicy"), _OF_POLICY)
    check_export_to(spec, namespace)
    if "workloadSelector" in spec and not set(spec.texts("exportTo")) <= {".", namespace}:
        raise spec.error("exportTo", "must be the rule's own namespace alone, since it has a workloadSelector")


_OF_PORT = ("outlierDetection", "connectionPool", "loadBalancer", "tls")
_OF_POLICY = (*_OF_PORT, "portLevelSettings", "tunnel", "proxyProtocol", "retryBudget")


def _check_policy(policy: Fields | None, names: Iterable[str]) -> None:
    if policy is None:
        return
    names = tuple(names)
    if not any(name in policy for name in names):
        raise policy.error(names[0], f"must be set, or another of {', '.join(names[1:])}")
    if "tunnel" in policy and "proxyProtocol" in policy:
        raise policy.error("proxyProtocol", "cannot stand beside tunnel")
    _check_outlier(policy.child("outlierDetection"))
    _check_pool(policy.child("connectionPool"))
    _check_balancer(policy.child("loadBalancer"))
    _check_tls(policy.child("tls"))
    for level in policy.children("portLevelSettings"):
        _check_policy(level, _OF_PORT)


def _check_outlier(outlier: Fields | None) -> None:
    if outlier is None:
        return
    check_duration(outlier, "baseEjectionTime", "interval")
    if not outlier.boolean("splitExternalLocalOriginErrors") and outlier.integer("consecutiveLocalOriginFailures"):
        raise outlier.error("consecutiveLocalOriginFailures", "needs splitExternalLocalOriginErrors")


def _check_pool(pool: Fields | None) -> None:
    if pool is None:
        return
    http, tcp = pool.child("http"), pool.child("tcp")
    if http is None and tcp is None:
        raise pool.error("http", "must be set, or tcp")
    if http is not None:
        check_duration(http, "idleTimeout")
        http.integer("maxConcurrentStreams")
        if http.text("h2UpgradePolicy") == "UPGRADE" and http.boolean("useClientProtocol"):
            raise http.error("useClientProtocol", "cannot stand beside h2UpgradePolicy UPGRADE")
        _need_durations(http.child("http2KeepAlive"), "interval", "timeout")
    if tcp is not None:
        check_duration(tcp, "connectTimeout", "maxConnectionDuration")
        check_duration(tcp, "idleTimeout", may_be_zero=True)
        keepalive = tcp.child("tcpKeepalive")
        if keepalive is not None:
            check_duration(keepalive, "time", "interval")


def _need_durations(fields: Fields | None, *names: str) -> None:
    if fields is None:
        return
    for name in names:
        if name not in fields:
            raise fields.error(name, "must be set")
    check_duration(fields, *names)


def _check_balancer(balancer: Fields | None) -> None:
    if balancer is None:
        return
    if "simple" in balancer and "consistentHash" in balancer:
        raise balancer.error("consistentHash", "cannot stand beside simple")
    hashing = balancer.child("consistentHash")
    if hashing is not None:
        _check_hash(hashing)
    if "localityLbSetting" in balancer and "zoneAwareLbSetting" in balancer:
        raise balancer.error("zoneAwareLbSetting", "cannot stand beside localityLbSetting")
    _check_locality(balancer.child("localityLbSetting"))
    warmup = balancer.child("warmup")
    _need_durations(warmup, "duration")
    if warmup is not None:
        if not 0 <= warmup.number("minimumPercent") <= 100:
            raise warmup.error("minimumPercent", "must be between 0 and 100")
        if warmup.number("aggression", 1.0) <= 0:
            raise warmup.error("aggression", "must be greater than 0")


_HASH_KEYS = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
_MAX_TABLE = 5_000_010


def _check_hash(hashing: Fields) -> None:
    given = [name for name in _HASH_KEYS if name in hashing]
    if len(given) > 1:
        raise hashing.error(given[1], f"cannot stand beside {given[0]}")
    cookie, maglev = hashing.child("httpCookie"), hashing.child("maglev")
    if cookie is not None:
        cookie.required_text("name")
        names = [attribute.required_text("name") for attribute in cookie.children("attributes")]
        if len(set(names)) < len(names):
            raise cookie.error("attributes", "have a name twice")
    if maglev is not None and "ringHash" in hashing:
        raise hashing.error("maglev", "cannot stand beside ringHash")
    if hashing.integer("minimumRingSize") and (maglev is not None or "ringHash" in hashing):
        raise hashing.error("minimumRingSize", "cannot stand beside ringHash or maglev")
    size = maglev.integer("tableSize") if maglev is not None else None
    if maglev is not None and (not size or size > _MAX_TABLE or not _is_prime(size)):
        raise maglev.error("tableSize", f"must be a prime, {_MAX_TABLE} at most, is {size}")


def _is_prime(number: int) -> bool:
    return number < 4 or (number % 2 == 1 and all(number % one for one in range(3, math.isqrt(number) + 1, 2)))


_LOCALITIES = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")


def _check_locality(setting: Fields | None) -> None:
    if setting is None:
        return
    distribute, failover = list(setting.children("distribute")), list(setting.children("failover"))
    if distribute and failover:
        raise setting.error("failover", "cannot stand beside distribute")
    if failover and set(_LOCALITIES).intersection(setting.texts("failoverPriority")):
        raise setting.error("failoverPriority", "cannot name localities beside failover")
    for one in distribute:
        weights = one.integers("to")
        if any(not 0 < weight <= 100 for weight in weights.values()) or sum(weights.values()) != 100:
            raise one.error("to", f"must be weights from 1 to 100, 100 in all, are {sum(weights.values())}")
        _check_overlap(one, "to", list(weights))
    _check_overlap(setting, "distribute", [one.text("from") for one in distribute])
    for one in failover:
        for name in ("from", "to"):
            if "/" in one.text(name) or "*" in one.text(name):
                raise one.error(name, f"must be a region, is {one.text(name)!r}")
        if one.text("from") == one.text("to"):
            raise one.error("to", "must be another region")


def _check_overlap(fields: Fields, name: str, localities: list[str]) -> None:
    """No locality may be part of another, by a star or by being shorter (validateLocalities)."""
    for index, one in enumerate(localities):
        parts = one.split("/")
        if "*" in one.rstrip("*") or "" in parts[:-1] or not one:
            raise fields.error(name, f"{one!r} is no locality: region/zone/subzone, with a star at its end at most")
        for other in localities[index + 1 :]:
            shorter, longer = sorted((parts, other.split("/")), key=len)
            prefix = shorter[:-1] if shorter[-1] == "*" else shorter
            if longer[: len(prefix)] == prefix:
                raise fields.error(name, f"{one!r} and {other!r} overlap")


def _check_tls(tls: Fields | None) -> None:
    if tls is None or tls.text("mode") not in ("SIMPLE", "MUTUAL") or not tls.text("credentialName"):
        return
    for name in ("clientCertificate", "caCertificates", "privateKey", "caCrl"):
        if tls.text(name):
            raise tls.error(name, "cannot stand beside credentialName")
