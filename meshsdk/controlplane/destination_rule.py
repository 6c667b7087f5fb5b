"""DestinationRule (istio.networking.v1.DestinationRule)."""

from __future__ import annotations

from .destination_rule_rules import check_destination_rule
from .fields import Fields
from .kubernetes import Meta
from .traffic_policy import (
    NO_POLICY,
    ClientTls,
    ConnectionPool,
    ConsistentHash,
    DestinationRule,
    LoadBalancer,
    LocalitySetting,
    OutlierDetection,
    Subset,
    TcpKeepalive,
    TlsMode,
    TrafficPolicy,
    Warmup,
)

__all__ = ["parse_destination_rule", "parse_locality_setting"]

_BALANCERS = ("ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "UNSPECIFIED", "PASSTHROUGH")


def parse_destination_rule(spec: Fields, meta: Meta) -> DestinationRule:
    """A DestinationRule."""
    check_destination_rule(spec.again(), meta.namespace)
    subsets = []
    for subset in spec.children("subsets"):
        policy = _parse_policy(subset.child("trafficPolicy"))
        subsets.append(Subset(subset.required_text("name"), subset.labels("labels"), policy))
        # Without its labels a subset is every endpoint.
        subset.finish_exactly()
    rule = DestinationRule(
        host=meta.full_host(spec.required_text("host")),
        namespace=meta.namespace,
        policy=_parse_policy(spec.child("trafficPolicy")),
        subsets=tuple(subsets),
        where=spec.where,
        export_to=spec.texts("exportTo"),
        selector=_parse_selector(spec.child("workloadSelector")),
        age=meta.age,
    )
    spec.finish(("workloadSelector", "trafficPolicy", "subsets", "exportTo"))
    return rule


def _parse_selector(selector: Fields | None) -> dict[str, str] | None:
    if selector is None:
        return None
    labels = selector.labels("matchLabels")
    # Without its labels the rule would be for everybody.
    selector.finish_exactly()
    return labels


def _parse_policy(policy: Fields | None) -> TrafficPolicy | None:
    if policy is None:
        return None
    ports: dict[int, TrafficPolicy] = {}
    for level in policy.children("portLevelSettings"):
        port = level.child("port")
        number = port.integer("number", low=1, high=65535) if port is not None else None
        if number is None:
            raise level.error("port.number", "must be set")
        ports[number] = _parse_policy(level) or NO_POLICY
    parsed = TrafficPolicy(
        load_balancer=_parse_balancer(policy.child("loadBalancer")),
        connection_pool=_parse_pool(policy.child("connectionPool")),
        outlier_detection=_parse_outlier(policy.child("outlierDetection")),
        tls=_parse_tls(policy.child("tls")),
        ports=ports,
    )
    policy.finish(("tls", "portLevelSettings"))
    return parsed


def _parse_balancer(balancer: Fields | None) -> LoadBalancer | None:
    if balancer is None:
        return None
    simple = balancer.text("simple")
    if simple and simple not in _BALANCERS:
        raise balancer.error("simple", f"must be one of {list(_BALANCERS)}, is {simple!r}")
    hashing = balancer.child("consistentHash")
    parsed = _parse_hash(hashing) if hashing is not None else None
    locality, warmup = balancer.child("localityLbSetting"), balancer.child("warmup")
    older = balancer.duration("warmupDurationSecs")
    settings = LoadBalancer(
        simple=simple,
        consistent_hash=parsed,
        locality=parse_locality_setting(locality) if locality is not None else None,
        warmup=_parse_warmup(warmup) if warmup is not None else Warmup(older) if older is not None else None,
    )
    balancer.finish()
    return settings


def _parse_warmup(warmup: Fields) -> Warmup:
    parsed = Warmup(
        seconds=warmup.duration("duration") or 0.0,
        minimum_percent=warmup.number("minimumPercent", 10.0),
        aggression=warmup.number("aggression", 1.0),
    )
    warmup.finish()
    return parsed


def parse_locality_setting(setting: Fields) -> LocalitySetting:
    """A LocalityLoadBalancerSetting, of a rule or of the mesh."""
    distribute = []
    for one in setting.children("distribute"):
        distribute.append((one.text("from"), one.integers("to")))
        one.finish()
    failover = []
    for one in setting.children("failover"):
        failover.append((one.text("from"), one.text("to")))
        one.finish()
    parsed = LocalitySetting(
        is_enabled=setting.boolean("enabled", True),
        distribute=tuple(distribute),
        failover=tuple(failover),
        failover_priority=setting.texts("failoverPriority"),
    )
    setting.finish()
    return parsed


def _parse_hash(hashing: Fields) -> ConsistentHash:
    cookie, ring = hashing.child("httpCookie"), hashing.child("ringHash")
    size = hashing.integer("minimumRingSize")
    if ring is not None:
        size = ring.integer("minimumRingSize")
        ring.finish()
    maglev = hashing.child("maglev")
    table_size = maglev.integer("tableSize") if maglev is not None else None
    if maglev is not None:
        maglev.finish()
    parsed = ConsistentHash(
        header=hashing.text("httpHeaderName"),
        cookie=cookie.required_text("name") if cookie is not None else "",
        cookie_path=cookie.text("path") if cookie is not None else "",
        cookie_ttl_seconds=cookie.duration("ttl") if cookie is not None else None,
        query_parameter=hashing.text("httpQueryParameterName"),
        source_ip=hashing.boolean("useSourceIp"),
        minimum_ring_size=size,
        maglev_table_size=table_size,
        is_maglev=maglev is not None,
        is_ring=ring is not None,
    )
    hashing.finish()
    return parsed


def _parse_pool(pool: Fields | None) -> ConnectionPool | None:
    if pool is None:
        return None
    tcp, http = pool.child("tcp"), pool.child("http")
    upgrade = http.text("h2UpgradePolicy") if http is not None else ""
    of_http = http.duration("idleTimeout") if http is not None else None
    of_tcp = tcp.duration("idleTimeout") if tcp is not None else None
    parsed = ConnectionPool(
        max_connections=tcp.integer("maxConnections") if tcp is not None else None,
        connect_timeout_seconds=tcp.duration("connectTimeout") if tcp is not None else None,
        pending_requests=http.integer("http1MaxPendingRequests") if http is not None else None,
        max_requests=http.integer("http2MaxRequests") if http is not None else None,
        max_requests_per_connection=http.integer("maxRequestsPerConnection") if http is not None else None,
        max_retries=http.integer("maxRetries") if http is not None else None,
        max_concurrent_streams=http.integer("maxConcurrentStreams") if http is not None else None,
        max_connection_seconds=tcp.duration("maxConnectionDuration") if tcp is not None else None,
        idle_timeout_seconds=of_http if of_http is not None else of_tcp,
        keepalive=_parse_keepalive(tcp.child("tcpKeepalive")) if tcp is not None else None,
        uses_clients_protocol=http.boolean("useClientProtocol") if http is not None else False,
        use_http2=upgrade == "UPGRADE" if upgrade in ("UPGRADE", "DO_NOT_UPGRADE") else None,
    )
    for part in (tcp, http, pool):
        if part is not None:
            part.finish()
    return parsed


def _parse_keepalive(keepalive: Fields | None) -> TcpKeepalive | None:
    if keepalive is None:
        return None
    parsed = TcpKeepalive(keepalive.integer("probes"), keepalive.duration("time"), keepalive.duration("interval"))
    keepalive.finish()
    return parsed


def _parse_outlier(outlier: Fields | None) -> OutlierDetection | None:
    if outlier is None:
        return None
    parsed = OutlierDetection(
        consecutive_5xx=outlier.integer("consecutive5xxErrors"),
        consecutive_gateway_errors=outlier.integer("consecutiveGatewayErrors"),
        consecutive_local_origin_failures=outlier.integer("consecutiveLocalOriginFailures"),
        split_local_origin=outlier.boolean("splitExternalLocalOriginErrors"),
        interval_seconds=outlier.duration("interval"),
        base_ejection_seconds=outlier.duration("baseEjectionTime"),
        max_ejection_percent=outlier.integer("maxEjectionPercent", high=100),
        min_health_percent=outlier.integer("minHealthPercent", high=100),
    )
    outlier.finish()
    return parsed


def _parse_tls(tls: Fields | None) -> ClientTls | None:
    if tls is None:
        return None
    text = tls.text("mode", "DISABLE")
    try:
        mode = TlsMode(text)
    except ValueError:
        raise tls.error("mode", f"must be one of {[one.value for one in TlsMode]}, is {text!r}") from None
    parsed = ClientTls(
        mode=mode,
        sni=tls.text("sni"),
        ca_certificates=tls.text("caCertificates"),
        client_certificate=tls.text("clientCertificate"),
        private_key=tls.text("privateKey"),
        subject_alt_names=tls.texts("subjectAltNames"),
    )
    if tls.boolean("insecureSkipVerify"):
        raise tls.error("insecureSkipVerify", "is refused: the peer could be anyone")
    if mode is TlsMode.MUTUAL and not (parsed.client_certificate and parsed.private_key):
        raise tls.error("mode", "MUTUAL needs clientCertificate and privateKey")
    for name in ("credentialName", "caCrl"):
        if name in tls:
            tls.warn(name, "is not translated, and has no effect")
            tls.ignore(name)
    # Without its mode, or the names of the peer, it would be plaintext, or with anybody.
    tls.finish_exactly()
    return parsed
