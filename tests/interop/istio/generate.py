"""Random folders: services, rules of every kind about them, policies, and who looks at them.

Plain chance from a seed, so that a folder that shows a difference can be made again by its number. What is written is
mostly what a cluster takes; what it refuses is compared as well.
"""

from __future__ import annotations

import random
from typing import Any

import yaml

from .case import Case, Client, Server

__all__ = ["generated"]

Json = dict[str, Any]

_NAMESPACES = ("default", "default", "default", "other", "istio-system")
_NAMES = ("a", "b", "reviews")
_VERSIONS = ("v1", "v2", "v3")
_PLACES = ("", "eu/eu-1", "eu/eu-2/x", "us/us-1", "us/us-1/y")
_LABELS: tuple[dict[str, str], ...] = ({}, {}, {"app": "web"}, {"app": "web", "version": "v1"})


def generated(number: int, seed: int) -> list[Case]:
    """So many folders; the same ones for the same seed."""
    return [_Maker(random.Random(f"{seed} {index}"), f"generated_{seed}_{index}").case() for index in range(number)]


class _Maker:
    """Makes one folder.

    Attributes:
        documents: So far.
        hosts: Full name and ports of what may be called.
    """

    def __init__(self, chance: random.Random, name: str) -> None:
        self.chance = chance
        self.name = name
        self.documents: list[Json] = []
        self.hosts: list[tuple[str, str, list[int]]] = []
        self.subsets: dict[str, list[str]] = {}
        self.servers: list[Server] = []

    def case(self) -> Case:
        """The folder, and who is looked at in it."""
        for _ in range(self.chance.choice((1, 2, 2, 3))):
            self._service()
        self._some(0.5, self._service_entry)
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self._destination_rule()
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self._virtual_service()
        self._some(0.2, self._sidecar)
        self._some(0.1, self._mesh_config)
        self._some(0.3, self._policies)
        clients = tuple(self._client() for _ in range(self.chance.choice((1, 1, 2))))
        text = "---\n".join(yaml.safe_dump(one, sort_keys=False, width=120) for one in self.documents)
        return Case(self.name, text, clients, tuple(self.servers))

    def _some(self, share: float, make: Any) -> None:
        if self.chance.random() < share:
            make()

    def _maybe(self, share: float, **fields: Any) -> Json:
        """Some of these fields; a value that can be called is called when it is needed."""
        return {
            name: value() if callable(value) else value
            for name, value in fields.items()
            if self.chance.random() < share
        }

    def _client(self) -> Client:
        place = self.chance.choice(_PLACES)
        return Client(self.chance.choice(("default", "default", "other", "third")), self.chance.choice(_LABELS), place)

    def _add(self, kind: str, name: str, namespace: str, spec: Json, **metadata: Any) -> None:
        groups = {
            "Service": "v1",
            "Pod": "v1",
            "AuthorizationPolicy": "security.istio.io/v1",
            "PeerAuthentication": "security.istio.io/v1",
        }
        version = groups.get(kind, "networking.istio.io/v1")
        self.documents.append(
            {
                "apiVersion": version,
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace, **metadata},
                **({"spec": spec} if spec or kind != "Pod" else {}),
            }
        )

    # Services and endpoints.

    def _service(self) -> None:
        taken = {host for host, _, _ in self.hosts}
        name, namespace = self.chance.choice(_NAMES), self.chance.choice(_NAMESPACES[:4])
        host = f"{name}.{namespace}.svc.cluster.local"
        if host in taken:
            return
        numbers = self.chance.sample((80, 8080, 9080), self.chance.choice((1, 1, 2)))
        protocols = ("http", "http", "http2", "grpc")
        ports = [
            {"name": f"{self.chance.choice(protocols)}-{one}", "port": one, "targetPort": 8000 + place}
            for place, one in enumerate(numbers)
        ]
        annotations = self._maybe(
            0.1, **{"networking.istio.io/exportTo": lambda: self.chance.choice((".", "*", "other"))}
        )
        metadata = {"annotations": annotations} if annotations else {}
        self._add("Service", name, namespace, {"selector": {"app": name}, "ports": ports}, **metadata)
        self.hosts.append((host, namespace, numbers))
        for number in range(self.chance.choice((0, 1, 2, 3))):
            address = f"10.{len(self.hosts)}.0.{number + 1}"
            labels = {"app": name, "version": self.chance.choice(_VERSIONS)}
            labels |= self._maybe(0.2, **{"security.istio.io/tlsMode": "istio"})
            self._add(
                "Pod",
                f"{name}-{number}",
                namespace,
                {"serviceAccountName": self.chance.choice(("default", name))},
                labels=labels,
            )
            self.documents[-1]["status"] = {"podIP": address}
            if number == 0:
                self.servers.append(Server(address, 8000, namespace, labels))

    def _service_entry(self) -> None:
        host = self.chance.choice(
            ("api.example.com", "www.example.com", "*.wild.example.com", "plain.default.svc.cluster.local")
        )
        namespace = self.chance.choice(_NAMESPACES[:4])
        ports: list[Json] = [{"number": 80, "name": "http", "protocol": "HTTP", **self._maybe(0.3, targetPort=8080)}]
        if self.chance.random() < 0.3:
            ports.append({"number": 443, "name": "tls", "protocol": self.chance.choice(("TLS", "HTTPS"))})
        resolution = "STATIC" if host.startswith("*") else self.chance.choice(("STATIC", "STATIC", "DNS", "NONE"))
        if host.startswith("*") and self.chance.random() < 0.5:
            resolution = "NONE"
        spec: Json = {"hosts": [host], "ports": ports, "resolution": resolution}
        spec |= self._maybe(0.4, location=lambda: self.chance.choice(("MESH_INTERNAL", "MESH_EXTERNAL")))
        spec |= self._maybe(0.2, exportTo=lambda: [self.chance.choice((".", "*"))])
        if resolution == "STATIC":
            spec["endpoints"] = [self._endpoint(number) for number in range(self.chance.choice((1, 2, 4)))]
        self._add("ServiceEntry", "entry", namespace, spec)
        self.hosts.append((host, namespace, [80]))

    def _endpoint(self, number: int) -> Json:
        return {
            "address": f"10.9.0.{number + 1}",
            **self._maybe(0.5, labels=lambda: {"version": self.chance.choice(_VERSIONS)}),
            **self._maybe(0.6, locality=lambda: self.chance.choice(_PLACES[1:])),
            **self._maybe(0.3, weight=lambda: self.chance.choice((1, 2, 5))),
            **self._maybe(0.2, ports=lambda: {"http": 9999}),
        }

    # DestinationRules.

    def _destination_rule(self) -> None:
        host, own, _ = self.chance.choice(self.hosts)
        namespace = self.chance.choice((own, own, *_NAMESPACES))
        spec: Json = {"host": self._written(host, own, namespace), **self._maybe(0.6, trafficPolicy=self._policy)}
        if self.chance.random() < 0.15:
            spec["host"] = self.chance.choice(("*.local", "*.default.svc.cluster.local", "*.example.com"))
        names = self.chance.sample(_VERSIONS, self.chance.choice((0, 1, 2, 3)))
        if names and not spec["host"].startswith("*"):
            spec["subsets"] = [
                {"name": one, "labels": {"version": one}, **self._maybe(0.4, trafficPolicy=self._policy)}
                for one in names
            ]
            self.subsets.setdefault(host, []).extend(names)
        spec |= self.chance.choice(
            (
                *({},) * 7,
                {"exportTo": [self.chance.choice((".", "*", "other"))]},
                {"workloadSelector": {"matchLabels": {"app": "web"}}},
            )
        )
        self._add("DestinationRule", f"rule-{len(self.documents)}", namespace, spec)

    def _written(self, host: str, of: str, namespace: str) -> str:
        """A host as a rule of a namespace may write it."""
        short = host.partition(".")[0]
        if host.endswith(".svc.cluster.local") and of == namespace and self.chance.random() < 0.6:
            return short
        return host

    def _policy(self) -> Json:
        policy = self._part_of_policy()
        if self.chance.random() < 0.25:
            policy["portLevelSettings"] = [
                {"port": {"number": self.chance.choice((80, 8080, 9080))}, **self._part_of_policy()}
            ]
        return policy

    def _part_of_policy(self) -> Json:
        found = self._maybe(
            0.4, loadBalancer=self._balancer, connectionPool=self._pool, outlierDetection=self._outlier, tls=self._tls
        )
        return found or {"loadBalancer": {"simple": "RANDOM"}}

    def _balancer(self) -> Json:
        if self.chance.random() < 0.3:
            key = self.chance.choice(
                (
                    {"httpHeaderName": "x-user"},
                    {"httpCookie": {"name": "user", "ttl": "60s"}},
                    {"httpCookie": {"name": "session", "path": "/p", "ttl": "0s"}},
                    {"httpQueryParameterName": "q"},
                    {"useSourceIp": True},
                )
            )
            return {"consistentHash": {**key, **self._maybe(0.3, ringHash=lambda: {"minimumRingSize": 64})}}
        names = ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "UNSPECIFIED", "LEAST_CONN")
        balancer: Json = {"simple": self.chance.choice(names)}
        if self.chance.random() < 0.3:
            balancer["localityLbSetting"] = self.chance.choice(
                (
                    {"enabled": False},
                    {"failover": [{"from": "eu", "to": "us"}]},
                    {"distribute": [{"from": "eu/*", "to": {"eu/*": 80, "us/*": 20}}]},
                    {"failoverPriority": ["version"]},
                    {"failoverPriority": ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]},
                )
            )
        return balancer

    def _pool(self) -> Json:
        http = self._maybe(
            0.3,
            http1MaxPendingRequests=7,
            http2MaxRequests=9,
            maxRequestsPerConnection=11,
            maxRetries=3,
            idleTimeout="30s",
            h2UpgradePolicy=lambda: self.chance.choice(("DEFAULT", "UPGRADE", "DO_NOT_UPGRADE")),
            maxConcurrentStreams=50,
        )
        tcp = self._maybe(
            0.3,
            maxConnections=5,
            connectTimeout="3s",
            tcpKeepalive={"time": "60s"},
            maxConnectionDuration="5m",
            idleTimeout="50s",
        )
        return {"http": http, "tcp": tcp}

    def _outlier(self) -> Json:
        outlier = self._maybe(
            0.4,
            consecutive5xxErrors=lambda: self.chance.choice((0, 3)),
            consecutiveGatewayErrors=lambda: self.chance.choice((0, 2)),
            interval="5s",
            baseEjectionTime="20s",
            maxEjectionPercent=40,
            minHealthPercent=lambda: self.chance.choice((0, 30)),
            consecutiveLocalOriginFailures=6,
        )
        if "consecutiveLocalOriginFailures" in outlier:
            outlier["splitExternalLocalOriginErrors"] = True
        return outlier

    def _tls(self) -> Json:
        return self.chance.choice(({"mode": "ISTIO_MUTUAL"}, {"mode": "DISABLE"}, {"mode": "ISTIO_MUTUAL"}))

    # VirtualServices.

    def _virtual_service(self) -> None:
        host, own, _ = self.chance.choice(self.hosts)
        namespace = self.chance.choice((own, own, own, *_NAMESPACES))
        hosts = [self._written(host, own, namespace)]
        hosts += [
            one
            for one in ("virtual.example.org", "*.third.svc.cluster.local", "*.example.net")
            if self.chance.random() < 0.07
        ]
        spec: Json = {
            "hosts": hosts,
            **self._maybe(0.15, exportTo=lambda: [self.chance.choice((".", "*", "other"))]),
            **self._maybe(0.1, gateways=lambda: self.chance.choice((["mesh"], ["mesh", "gw"], ["gw"]))),
            "http": [self._route(namespace) for _ in range(self.chance.choice((1, 2, 3, 4)))],
        }
        metadata = self._maybe(0.2, creationTimestamp=lambda: f"202{self.chance.choice('345')}-01-01T00:00:00Z")
        self._add("VirtualService", f"virtual-{len(self.documents)}", namespace, spec, **metadata)

    def _route(self, namespace: str) -> Json:
        route: Json = {**self._maybe(0.5, name=lambda: f"r{self.chance.randrange(9)}")}
        if self.chance.random() < 0.8:
            route["match"] = [self._match() for _ in range(self.chance.choice((1, 1, 2)))]
        kind = self.chance.random()
        if kind < 0.12:
            return route | {"redirect": self._redirect()} | self._maybe(0.2, headers=self._headers)
        if kind < 0.2:
            return route | {"directResponse": self._direct()} | self._maybe(0.2, headers=self._headers)
        route["route"] = self._destinations(namespace)
        route |= self._maybe(0.25, timeout=lambda: self.chance.choice(("1s", "250ms", "1m30s")), retries=self._retries)
        route |= self._maybe(0.2, headers=self._headers, rewrite=self._rewrite, fault=self._fault)
        route |= self._maybe(0.1, mirror=lambda: self._destination(namespace))
        if "mirror" in route:
            route |= self._maybe(0.5, mirrorPercentage=lambda: {"value": self.chance.choice((0, 12.5, 100))})
        return route

    def _match(self) -> Json:
        match: Json = self._maybe(0.7, uri=lambda: self._text(("/v1", "/v1/a", "/items/", "/", "/Case"), "/v[0-9]/.*"))
        match |= self._maybe(0.3, headers=lambda: self._conditions(("x-user", "x-Debug", "cookie")))
        match |= self._maybe(0.1, withoutHeaders=lambda: self._conditions(("x-user", "x-other")))
        match |= self._maybe(
            0.1, queryParams=lambda: self._conditions(("q", "v")), method=lambda: self._text(("POST", "GET"), "P.*")
        )
        match |= self._maybe(
            0.08,
            authority=lambda: self._text(("a", "reviews:9080", "a.default"), "a.*"),
            port=lambda: self.chance.choice((80, 8080)),
        )
        match |= self._maybe(
            0.08, sourceLabels={"app": "web"}, sourceNamespace=lambda: self.chance.choice(("default", "other"))
        )
        match |= self._maybe(0.06, gateways=lambda: [self.chance.choice(("mesh", "gw"))], ignoreUriCase=True)
        return match or {"uri": {"prefix": "/"}}

    def _conditions(self, names: tuple[str, ...]) -> Json:
        return {
            name: self.chance.choice(({}, self._text(("ann", "v1", "b"), "v[0-9]+|bob.*")))
            for name in self.chance.sample(names, 1)
        }

    def _text(self, values: tuple[str, ...], pattern: str) -> Json:
        kind = self.chance.choice(("exact", "prefix", "prefix", "regex"))
        return {kind: pattern if kind == "regex" else self.chance.choice(values)}

    def _destination(self, namespace: str) -> Json:
        host, own, numbers = self.chance.choice(self.hosts)
        if self.chance.random() < 0.04:
            return {"host": "nowhere"}
        if host.startswith("*"):
            host = f"a{host[1:]}"
        destination: Json = {"host": self._written(host, own, namespace)}
        known = self.subsets.get(host, [])
        if known and self.chance.random() < 0.6:
            destination["subset"] = self.chance.choice(known)
        if len(numbers) > 1 or self.chance.random() < 0.3:
            destination["port"] = {"number": self.chance.choice(numbers)}
        return destination

    def _destinations(self, namespace: str) -> list[Json]:
        number = self.chance.choice((1, 1, 1, 2, 3))
        if number == 1:
            return [{"destination": self._destination(namespace), **self._maybe(0.2, headers=self._headers)}]
        weights = self.chance.choice(((50, 50, 0), (90, 10, 0), (20, 30, 50), (1, 2, 3)))
        found = [
            {"destination": self._destination(namespace), "weight": weight, **self._maybe(0.2, headers=self._headers)}
            for weight in weights[:number]
        ]
        return found

    def _headers(self) -> Json:
        def operations() -> Json:
            return self._maybe(
                0.5,
                set=lambda: {self.chance.choice(("x-user", "x-new", "X-Caps")): "set"},
                add=lambda: {self.chance.choice(("x-old", "x-kept", "x-new")): "added"},
                remove=lambda: [self.chance.choice(("x-old", "x-user", "server"))],
            )

        headers = {"request": operations(), "response": operations()}
        if self.chance.random() < 0.15:
            headers["request"]["set"] = {self.chance.choice(("Host", ":authority", "host")): "h.example.com"}
        return headers

    def _rewrite(self) -> Json:
        return self.chance.choice(
            (
                {"uri": "/new"},
                {"uri": "/"},
                {"authority": "r.example.com"},
                {"uri": "/new/", "authority": "r.example.com"},
                {"uriRegexRewrite": {"match": "^/v([0-9])(/.*)?$", "rewrite": "/x\\1\\2"}},
            )
        )

    def _redirect(self) -> Json:
        redirect: Json = self._maybe(0.5, uri=lambda: self.chance.choice(("/new", "/q?x=1")), authority="r.example.com")
        redirect |= self._maybe(
            0.3,
            scheme=lambda: self.chance.choice(("http", "https")),
            redirectCode=lambda: self.chance.choice((301, 302, 303, 307, 308)),
        )
        if self.chance.random() < 0.3:
            redirect |= self.chance.choice(
                (
                    {"port": 8443},
                    {"port": 443},
                    {"port": 80},
                    {"derivePort": "FROM_REQUEST_PORT"},
                    {"derivePort": "FROM_PROTOCOL_DEFAULT"},
                )
            )
        if not redirect.keys() & {"uri", "authority", "scheme", "port"}:
            redirect["uri"] = "/"
        return redirect

    def _direct(self) -> Json:
        return {"status": self.chance.choice((200, 204, 404, 503)), **self._maybe(0.6, body={"string": "direct"})}

    def _retries(self) -> Json:
        if self.chance.random() < 0.2:
            return {"attempts": 0}
        return {
            "attempts": self.chance.choice((1, 3)),
            **self._maybe(0.4, perTryTimeout=lambda: self.chance.choice(("200ms", "5s"))),
            **self._maybe(
                0.4,
                retryOn=lambda: self.chance.choice(
                    ("5xx", "gateway-error,503", "reset,connect-failure", "retriable-4xx,429", "unavailable")
                ),
            ),
            **self._maybe(0.15, retryRemoteLocalities=True, backoff="50ms"),
            **self._maybe(0.15, retryIgnorePreviousHosts=lambda: self.chance.choice((True, False))),
        }

    def _fault(self) -> Json:
        fault: Json = {}
        if self.chance.random() < 0.6:
            error = self.chance.choice(({"httpStatus": 503}, {"httpStatus": 418}, {"grpcStatus": "UNAVAILABLE"}))
            fault["abort"] = {**error, **self._maybe(0.8, percentage={"value": self.chance.choice((0, 0.5, 100))})}
        if not fault or self.chance.random() < 0.4:
            fault["delay"] = {
                "fixedDelay": "1s",
                **self._maybe(0.8, percentage={"value": self.chance.choice((10, 100))}),
            }
        return fault

    # What holds for clients and servers as a whole.

    def _sidecar(self) -> None:
        namespace = self.chance.choice(_NAMESPACES)
        choices = (
            *(["./*"], ["*/*"], ["other/*"], ["./*", "other/*"], ["*/a.default.svc.cluster.local"], ["~/*"]),
            *(
                ["*/*", "~other/*"],
                ["*/*", "~./a.default.svc.cluster.local"],
                ["./*", "~*/b.default.svc.cluster.local"],
            ),
            *(["*/*.example.com", "default/*"], ["*/*", "~*/*.default.svc.cluster.local"], ["*/api.example.com"]),
        )
        spec: Json = {"egress": [{"hosts": self.chance.choice(choices)}]}
        if self.chance.random() < 0.4:
            number = self.chance.choice((80, 8080, 9080))
            port = {"number": number, "name": "own", "protocol": self.chance.choice(("HTTP", "HTTP", "GRPC"))}
            own = {"port": port, "hosts": self.chance.choice(choices)}
            own |= self._maybe(0.3, captureMode=lambda: self.chance.choice(("DEFAULT", "IPTABLES", "NONE")))
            spec["egress"] = [own, *(spec["egress"] if self.chance.random() < 0.6 else ())]
        if namespace != "istio-system":
            spec |= self._maybe(0.3, workloadSelector={"labels": {"app": "web"}})
        spec |= self._maybe(0.2, outboundTrafficPolicy={"mode": "REGISTRY_ONLY"})
        self._add("Sidecar", "sidecar", namespace, spec)

    def _mesh_config(self) -> None:
        mesh = self.chance.choice(
            (
                {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
                {"enableAutoMtls": False},
                {"connectTimeout": "3s"},
                {"defaultHttpRetryPolicy": {"attempts": 1, "retryOn": "5xx"}},
                {"trustDomain": "example.org"},
                {"localityLbSetting": {"enabled": False}},
            )
        )
        metadata = {"name": "istio", "namespace": "istio-system"}
        text = yaml.safe_dump(mesh)
        self.documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mesh": text}})

    def _policies(self) -> None:
        for number in range(self.chance.choice((1, 1, 2))):
            namespace = self.chance.choice(_NAMESPACES)
            action = self.chance.choice(("ALLOW", "ALLOW", "DENY", "AUDIT"))
            rules = [self._rule() for _ in range(self.chance.choice((1, 2)))]
            spec: Json = {
                "action": action,
                "rules": rules,
                **self._maybe(0.3, selector={"matchLabels": {"version": "v1"}}),
            }
            if action == "ALLOW" and self.chance.random() < 0.1:
                spec = {}
            self._add("AuthorizationPolicy", f"policy-{number}", namespace, spec)
        if self.chance.random() < 0.5:
            spec = {"mtls": {"mode": self.chance.choice(("STRICT", "PERMISSIVE", "DISABLE", "UNSET"))}}
            if self.chance.random() < 0.4:
                spec |= {"selector": {"matchLabels": {"version": "v1"}}}
                spec |= self._maybe(
                    0.6, portLevelMtls=lambda: {8000: {"mode": self.chance.choice(("STRICT", "DISABLE"))}}
                )
            self._add("PeerAuthentication", "peers", self.chance.choice(_NAMESPACES), spec)

    def _rule(self) -> Json:
        source = self._maybe(
            0.25,
            principals=lambda: [
                self.chance.choice(("cluster.local/ns/default/sa/web", "*", "*/sa/web", "cluster.local/ns/other/*"))
            ],
            notPrincipals=["cluster.local/ns/default/sa/web"],
            namespaces=lambda: [self.chance.choice(("default", "oth*", "*er"))],
            notNamespaces=["other"],
            ipBlocks=lambda: [self.chance.choice(("10.1.0.0/16", "192.0.2.1"))],
            notIpBlocks=["10.2.0.0/16"],
        )
        operation = self._maybe(
            0.3,
            methods=lambda: [self.chance.choice(("GET", "P*", "*"))],
            paths=lambda: [self.chance.choice(("/a", "/a/*", "*/x", "*", "/t/{*}/x"))],
            notPaths=["/a/secret"],
            hosts=lambda: [self.chance.choice(("server.example.com", "*.example.com", "server:*"))],
            ports=lambda: [self.chance.choice(("8000", "80"))],
        )
        values: Json = self._maybe(0.7, values=[self.chance.choice(("ann", "b*", "*"))]) or {"notValues": ["ann", "*x"]}
        when = [{"key": "request.headers[x-user]", **values}]
        rule: Json = {}
        if source:
            rule["from"] = [{"source": source}]
        if operation:
            rule["to"] = [{"operation": operation}]
        return rule | self._maybe(0.25, when=when)
