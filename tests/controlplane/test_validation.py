"""Objects that Istio's own servers would not take are refused, with file, line and field; others are taken."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsdk.controlplane.folder import load

VERSIONS = {
    **dict.fromkeys(("VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry"), "networking.istio.io/v1"),
    **dict.fromkeys(("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"), "security.istio.io/v1"),
}


def errors_of(folder: Path, kind: str, spec: str) -> list[str]:
    (folder / "object.yaml").write_text(
        f"apiVersion: {VERSIONS[kind]}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec:\n  {spec}\n"
    )
    return load(folder).errors


def route(fields: str) -> str:
    return f"{{hosts: [a], http: [{{{fields}}}]}}"


TO = "route: [{destination: {host: a}}]"
MATCH = f"{TO}, match: "


def with_hosts(fields: str) -> str:
    return f"{{{fields}, http: [{{{TO}}}]}}"


def policy(fields: str) -> str:
    return f"{{host: a, trafficPolicy: {fields}}}"


def entry(fields: str, ports: str = "[{number: 80, name: http, protocol: HTTP}]") -> str:
    return f"{{hosts: [a.example], ports: {ports}, {fields}}}"


# The kind, its spec, and the field that the error names.
REFUSED = [
    ("VirtualService", with_hosts("hosts: ['*']"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: ['a b']"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: [a.1]"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: [a.x.*]"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: [a.x, '*.x']"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: [a, a]"), "spec.hosts"),
    ("VirtualService", with_hosts("hosts: [a], gateways: [a/b/c]"), "spec.gateways"),
    ("VirtualService", with_hosts("gateways: [mesh]"), "spec.gateways"),
    ("VirtualService", "{hosts: [a]}", "spec.http"),
    ("VirtualService", with_hosts("hosts: [a], exportTo: [., shop]"), "spec.exportTo"),
    ("VirtualService", with_hosts("hosts: [a], exportTo: ['*', b]"), "spec.exportTo"),
    ("VirtualService", with_hosts("hosts: [a], exportTo: ['~']"), "spec.exportTo"),
    ("VirtualService", route("name: x"), "http[0].route"),
    ("VirtualService", route(f"{TO}, redirect: {{uri: /x}}"), "http[0].route"),
    ("VirtualService", route("redirect: {uri: /x}, fault: {abort: {httpStatus: 500}}"), "http[0].fault"),
    ("VirtualService", route("redirect: {uri: /x}, rewrite: {uri: /y}"), "http[0].rewrite"),
    ("VirtualService", route("redirect: {uri: /x}, directResponse: {status: 200}"), "http[0].directResponse"),
    ("VirtualService", route("directResponse: {status: 200}, rewrite: {uri: /y}"), "http[0].rewrite"),
    ("VirtualService", route(f"{TO}, mirror: {{host: b}}, mirrors: [{{destination: {{host: b}}}}]"), "http[0].mirrors"),
    ("VirtualService", route(f"{TO}, delegate: {{name: b}}"), "http[0].route"),
    ("VirtualService", route(MATCH + "[{headers: {'a b': {exact: x}}}]"), "match[0].headers"),
    ("VirtualService", route(MATCH + "[{headers: {a: {prefix: ''}}}]"), "match[0].headers['a'].prefix"),
    ("VirtualService", route(MATCH + "[{headers: {a: {regex: ''}}}]"), "match[0].headers['a'].regex"),
    ("VirtualService", route(MATCH + "[{uri: {regex: '('}}]"), "match[0].uri.regex"),
    ("VirtualService", route(MATCH + f"[{{uri: {{regex: {'a' * 1025}}}}}]"), "match[0].uri.regex"),
    ("VirtualService", route(MATCH + "[{method: {prefix: ''}}]"), "match[0].method.prefix"),
    ("VirtualService", route(MATCH + "[{port: 65536}]"), "match[0].port"),
    ("VirtualService", route(MATCH + "[{sourceLabels: {'*': x}}]"), "match[0].sourceLabels"),
    ("VirtualService", route(MATCH + "[{sourceNamespace: a.b}]"), "match[0].sourceNamespace"),
    ("VirtualService", route(f"{TO}, headers: {{request: {{set: {{':path': x}}}}}}"), "headers.request.set"),
    ("VirtualService", route(f"{TO}, headers: {{request: {{remove: [host]}}}}"), "headers.request.remove"),
    ("VirtualService", route(f"{TO}, headers: {{response: {{add: {{Host: x}}}}}}"), "headers.response.add"),
    ("VirtualService", route(f"{TO}, headers: {{request: {{set: {{a: '50%'}}}}}}"), "headers.request.set"),
    ("VirtualService", route(f'{TO}, headers: {{request: {{set: {{a: "\\x01"}}}}}}'), "headers.request.set"),
    (
        "VirtualService",
        route(f"{TO}, rewrite: {{authority: b}}, headers: {{request: {{set: {{Host: c}}}}}}"),
        "headers",
    ),
    ("VirtualService", route(f"{TO}, rewrite: {{}}"), "rewrite.uri"),
    (
        "VirtualService",
        route(f"{TO}, rewrite: {{uri: /, uriRegexRewrite: {{match: a, rewrite: b}}}}"),
        "uriRegexRewrite",
    ),
    ("VirtualService", route(f"{TO}, rewrite: {{uriRegexRewrite: {{match: a}}}}"), "uriRegexRewrite.rewrite"),
    ("VirtualService", route(f"{TO}, corsPolicy: {{allowOrigins: [{{}}]}}"), "corsPolicy.allowOrigins[0]"),
    ("VirtualService", route(f"{TO}, corsPolicy: {{allowMethods: [get]}}"), "corsPolicy.allowMethods"),
    ("VirtualService", route(f"{TO}, corsPolicy: {{exposeHeaders: ['a b']}}"), "corsPolicy.exposeHeaders"),
    ("VirtualService", route(f"{TO}, corsPolicy: {{maxAge: 1500ms}}"), "corsPolicy.maxAge"),
    ("VirtualService", route(f"{TO}, fault: {{}}"), "fault.abort"),
    ("VirtualService", route(f"{TO}, fault: {{delay: {{fixedDelay: 0s}}}}"), "fault.delay.fixedDelay"),
    ("VirtualService", route(f"{TO}, fault: {{abort: {{httpStatus: 99}}}}"), "fault.abort.httpStatus"),
    ("VirtualService", route(f"{TO}, fault: {{abort: {{percentage: {{value: 101}}}}}}"), "fault.abort.percentage"),
    ("VirtualService", route("route: [{destination: {host: '*'}}]"), "destination.host"),
    ("VirtualService", route("route: [{destination: {host: a, subset: a.b}}]"), "destination.subset"),
    ("VirtualService", route("route: [{destination: {host: a, port: {}}}]"), "destination.port.number"),
    ("VirtualService", route("route: [{weight: 1}]"), "route[0].destination"),
    ("VirtualService", route("route: [{destination: {host: a}}, {destination: {host: b}}]"), "http[0].route"),
    ("VirtualService", route(f"{TO}, mirrors: [{{}}]"), "mirrors[0].destination"),
    ("VirtualService", route(f"{TO}, mirror: {{host: b}}, mirrorPercentage: {{value: 101}}"), "mirrorPercentage"),
    ("VirtualService", route("redirect: {}"), "redirect.uri"),
    ("VirtualService", route("redirect: {uri: /x, scheme: ftp}"), "redirect.scheme"),
    ("VirtualService", route("redirect: {uri: /x, redirectCode: 200}"), "redirect.redirectCode"),
    ("VirtualService", route("directResponse: {}"), "directResponse.status"),
    ("VirtualService", route(f"{TO}, retries: {{perTryTimeout: 1s}}"), "retries.perTryTimeout"),
    ("VirtualService", route(f"{TO}, retries: {{attempts: 1, retryOn: some}}"), "retries.retryOn"),
    ("VirtualService", route(f"{TO}, retries: {{attempts: 1, backoff: 0.1ms}}"), "retries.backoff"),
    ("VirtualService", route(f"{TO}, timeout: 0s"), "http[0].timeout"),
    ("VirtualService", route(f"{TO}, timeout: 1.0005s"), "http[0].timeout"),
    ("DestinationRule", "{host: '*a*'}", "spec.host"),
    ("DestinationRule", policy("{}"), "trafficPolicy"),
    ("DestinationRule", "{host: a, subsets: [{name: x}, {name: x}]}", "subsets[1].name"),
    ("DestinationRule", "{host: a, subsets: [{name: x_y}]}", "subsets[0].name"),
    ("DestinationRule", "{host: a, subsets: [{name: x, labels: {a: '?'}}]}", "subsets[0].labels"),
    ("DestinationRule", "{host: a, exportTo: [b, b]}", "spec.exportTo"),
    ("DestinationRule", "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [b]}", "spec.exportTo"),
    ("DestinationRule", "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']}", "spec.exportTo"),
    ("DestinationRule", "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [., b]}", "spec.exportTo"),
    ("DestinationRule", policy("{outlierDetection: {interval: 0s}}"), "outlierDetection.interval"),
    (
        "DestinationRule",
        policy("{outlierDetection: {consecutiveLocalOriginFailures: 1}}"),
        "consecutiveLocalOriginFailures",
    ),
    ("DestinationRule", policy("{outlierDetection: {maxEjectionPercent: 101}}"), "maxEjectionPercent"),
    ("DestinationRule", policy("{connectionPool: {}}"), "connectionPool.http"),
    ("DestinationRule", policy("{connectionPool: {tcp: {maxConnections: -1}}}"), "tcp.maxConnections"),
    ("DestinationRule", policy("{connectionPool: {tcp: {connectTimeout: 0s}}}"), "tcp.connectTimeout"),
    ("DestinationRule", policy("{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}"), "http2KeepAlive.timeout"),
    (
        "DestinationRule",
        policy("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}"),
        "useClientProtocol",
    ),
    ("DestinationRule", policy("{loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}}"), "httpCookie.name"),
    ("DestinationRule", policy("{loadBalancer: {consistentHash: {maglev: {tableSize: 12}}}}"), "maglev.tableSize"),
    (
        "DestinationRule",
        policy("{loadBalancer: {consistentHash: {minimumRingSize: 9, ringHash: {}}}}"),
        "minimumRingSize",
    ),
    (
        "DestinationRule",
        policy("{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}"),
        "useSourceIp",
    ),
    (
        "DestinationRule",
        policy("{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}"),
        "consistentHash",
    ),
    ("DestinationRule", policy("{loadBalancer: {warmup: {aggression: 2}}}"), "warmup.duration"),
    (
        "DestinationRule",
        policy("{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 10}}]}}}"),
        "distribute[0].to",
    ),
    (
        "DestinationRule",
        policy("{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 50, b/*: 50}}]}}}"),
        "distribute[0].to",
    ),
    (
        "DestinationRule",
        policy("{loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}"),
        "failover[0].to",
    ),
    ("DestinationRule", policy("{tls: {mode: MUTUAL}}"), "tls.mode"),
    ("DestinationRule", policy("{tls: {mode: SIMPLE, credentialName: a, caCertificates: b}}"), "tls.caCertificates"),
    ("DestinationRule", policy("{portLevelSettings: [{port: {number: 1}}]}"), "portLevelSettings[0]"),
    ("DestinationRule", policy("{portLevelSettings: [{tls: {mode: SIMPLE}}]}"), "port.number"),
    ("ServiceEntry", "{ports: [{number: 80, name: http, protocol: HTTP}]}", "spec.hosts"),
    ("ServiceEntry", "{hosts: ['*']}", "spec.hosts"),
    ("ServiceEntry", "{hosts: ['*.a.example'], resolution: DNS}", "spec.hosts"),
    ("ServiceEntry", entry("addresses: [1.2.3]"), "spec.addresses"),
    ("ServiceEntry", entry("addresses: [1.2.3.4/16], resolution: DNS"), "spec.addresses"),
    ("ServiceEntry", entry("resolution: MAYBE"), "spec.resolution"),
    ("ServiceEntry", entry("resolution: NONE, endpoints: [{address: 1.2.3.4}]"), "spec.endpoints"),
    ("ServiceEntry", entry("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a}, {address: b}]"), "spec.endpoints"),
    ("ServiceEntry", entry("resolution: STATIC, endpoints: [{address: a.example}]"), "endpoints[0].address"),
    ("ServiceEntry", entry("resolution: DNS, endpoints: [{address: 'a b'}]"), "endpoints[0].address"),
    (
        "ServiceEntry",
        entry("resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {x: 1}}]"),
        "endpoints[0].ports['x']",
    ),
    ("ServiceEntry", entry("workloadSelector: {labels: {a: '*'}}"), "workloadSelector.labels"),
    ("ServiceEntry", entry("workloadSelector: {}, endpoints: [{address: 1.1.1.1}]"), "spec.endpoints"),
    ("ServiceEntry", entry("resolution: NONE", "[{number: 80, name: a}, {number: 81, name: a}]"), "ports[1].name"),
    ("ServiceEntry", entry("resolution: NONE", "[{number: 80, name: a}, {number: 80, name: b}]"), "ports[1].number"),
    ("ServiceEntry", entry("resolution: NONE", "[{number: 80, name: A_B}]"), "ports[0].name"),
    ("ServiceEntry", entry("resolution: NONE", "[{number: 80, name: a, protocol: XYZ}]"), "ports[0].protocol"),
    ("ServiceEntry", entry("resolution: NONE", "[{number: 0, name: a}]"), "ports[0].number"),
    ("ServiceEntry", "{hosts: [a, b], resolution: STATIC, ports: [{number: 1, name: t, protocol: TCP}]}", "protocol"),
    ("WorkloadEntry", "{labels: {a: b}}", "spec.address"),
    ("WorkloadEntry", "{address: 'a b'}", "spec.address"),
    ("WorkloadEntry", "{address: 'unix://a'}", "spec.address"),
    ("WorkloadEntry", "{address: 'unix:///a', ports: {a: 1}}", "spec.ports"),
    ("WorkloadEntry", "{address: 1.1.1.1, ports: {a: 70000}}", "spec.ports['a']"),
    ("WorkloadEntry", "{address: 1.1.1.1, ports: {'@': 1}}", "spec.ports"),
    ("WorkloadEntry", "{address: 1.1.1.1, labels: {a b: c}}", "spec.labels"),
    ("PeerAuthentication", "{mtls: {mode: SOME}}", "mtls.mode"),
    ("PeerAuthentication", "{portLevelMtls: {80: {mode: STRICT}}}", "portLevelMtls"),
    ("RequestAuthentication", "{jwtRules: [{jwks: '{}'}]}", "jwtRules[0].issuer"),
    ("RequestAuthentication", "{selector: {matchLabels: {a: '*'}}, jwtRules: []}", "selector.matchLabels"),
    ("AuthorizationPolicy", "{action: SOME}", "spec.action"),
    ("AuthorizationPolicy", "{rules: [{from: []}]}", "rules[0].from"),
    ("AuthorizationPolicy", "{rules: [{from: [{source: {}}]}]}", "from[0].source"),
    ("AuthorizationPolicy", "{rules: [{when: [{key: a, values: [b]}]}]}", "when[0].key"),
]


@pytest.mark.parametrize(("kind", "spec", "field"), REFUSED)
def test_what_istios_servers_refuse_is_refused_by_file_line_and_field(
    tmp_path: Path, kind: str, spec: str, field: str
) -> None:
    errors = errors_of(tmp_path, kind, spec)
    assert any(field in text for text in errors), errors
    # What is missing is on the line of what lacks it.
    assert all(f"object.yaml {kind}/x.spec" in text and text.endswith(("(line 4)", "(line 5)")) for text in errors)


TAKEN = [
    ("VirtualService", with_hosts("hosts: ['*.x', y.x.example., 10.0.0.1], exportTo: [., other]")),
    ("VirtualService", with_hosts("hosts: ['*'], gateways: [shop/gate]")),
    ("VirtualService", f"{{http: [{{{TO}}}]}}"),
    ("VirtualService", "{hosts: [a], tcp: [{route: [{destination: {host: a}}]}]}"),
    ("VirtualService", route(MATCH + "[{uri: {prefix: ''}, headers: {x: {regex: '*'}, ':method': {exact: GET}}}]")),
    ("VirtualService", route(MATCH + "[{withoutHeaders: {x: {regex: '*'}}, gateways: [mesh, a/b]}]")),
    ("VirtualService", route(f"{TO}, headers: {{request: {{set: {{a: '%HOSTNAME% 100%%', Host: b}}}}}}")),
    ("VirtualService", route(f"{TO}, retries: {{attempts: 3, retryOn: 'reset,503,gateway-error', backoff: 10ms}}")),
    ("VirtualService", route(f"{TO}, retries: {{attempts: 0}}")),
    (
        "VirtualService",
        route(f"{TO}, corsPolicy: {{allowOrigins: [{{exact: '*'}}], allowHeaders: ['*'], maxAge: 24h}}"),
    ),
    ("VirtualService", route("redirect: {authority: b, derivePort: FROM_REQUEST_PORT}")),
    ("DestinationRule", "{host: '*.x.example', subsets: [{name: V1, labels: {a/b: '', x.y/z_1: v-1}}]}"),
    ("DestinationRule", policy("{connectionPool: {tcp: {idleTimeout: 0s}}, loadBalancer: {warmup: {duration: 1s}}}")),
    ("DestinationRule", policy("{loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}}")),
    (
        "DestinationRule",
        policy("{loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {a/x: 60, 'b/*': 40}}]}}}"),
    ),
    ("ServiceEntry", entry("addresses: [10.0.0.0/8, 'fd00::1'], exportTo: ['~'], resolution: STATIC")),
    (
        "ServiceEntry",
        entry("resolution: DNS, endpoints: [{address: b.example, ports: {http: 8080}}, {address: 1.1.1.1}]"),
    ),
    ("ServiceEntry", "{hosts: [a, b], resolution: NONE, ports: [{number: 1, name: t, protocol: TCP}]}"),
    ("ServiceEntry", entry("resolution: STATIC, endpoints: [{network: other}, {address: 1.1.1.1}]")),
    ("WorkloadEntry", "{network: other}"),
    ("WorkloadEntry", "{address: 'unix://@abstract'}"),
    ("WorkloadEntry", "{address: vm.example, ports: {http: 80}, labels: {a: ''}}"),
]


@pytest.mark.parametrize(("kind", "spec"), TAKEN)
def test_what_istios_servers_take_is_taken(tmp_path: Path, kind: str, spec: str) -> None:
    assert errors_of(tmp_path, kind, spec) == []


# Whatever is said in the shape of a kind ends in a problem at worst.

META = {"name": "x", "namespace": "shop", "labels": {"app": "a"}, "annotations": {"a": "b"}}
SHAPES: list[Any] = [
    {"apiVersion": VERSIONS[kind], "kind": kind, "metadata": META, "spec": yaml.safe_load(spec)}
    for kind, spec in TAKEN
    if "hosts" in spec or kind != "VirtualService"
]
SHAPES += [
    {"apiVersion": VERSIONS[kind], "kind": kind, "metadata": META, "spec": spec}
    for kind, spec in {
        "AuthorizationPolicy": {
            "action": "ALLOW",
            "selector": {"matchLabels": {"app": "a"}},
            "rules": [
                {
                    "from": [{"source": {"principals": ["a"], "notIpBlocks": ["10.0.0.0/8"]}}],
                    "to": [{"operation": {"paths": ["/a/{*}"], "ports": ["80"]}}],
                    "when": [{"key": "request.headers[a]", "values": ["b"]}],
                }
            ],
        },
        "PeerAuthentication": {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "STRICT"}}},
        "RequestAuthentication": {
            "jwtRules": [{"issuer": "a", "jwks": '{"keys": []}', "fromHeaders": [{"name": "a"}]}]
        },
    }.items()
]
SHAPES += [
    {"apiVersion": version, "kind": kind, "metadata": META, **rest}
    for kind, version, rest in [
        (
            "Service",
            "v1",
            {"spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": "x"}]}},
        ),
        (
            "Pod",
            "v1",
            {
                "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "x", "containerPort": 80}]}]},
                "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
            },
        ),
        ("Node", "v1", {"spec": {}, "status": {}}),
        (
            "EndpointSlice",
            "discovery.k8s.io/v1",
            {
                "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "x"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "x"}}],
                "ports": [{"name": "http", "port": 80}],
            },
        ),
        ("Endpoints", "v1", {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
        ("ConfigMap", "v1", {"metadata": {"name": "istio"}, "data": {"mesh": "extensionProviders: []"}}),
        ("EnvoyFilter", "networking.istio.io/v1alpha3", {"spec": {"configPatches": [{"match": {"context": "ANY"}}]}}),
        ("WasmPlugin", "extensions.istio.io/v1alpha1", {"spec": {"targetRefs": [{"kind": "Gateway"}]}}),
        ("Sidecar", "networking.istio.io/v1", {"spec": {"egress": [{"hosts": ["./*"]}]}}),
        ("HTTPRoute", "gateway.networking.k8s.io/v1", {"spec": {"parentRefs": [{"kind": "Service"}]}}),
        ("List", "v1", {"items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]}),
        ("PodList", "v1", {"items": [{"metadata": {"name": "s"}}]}),
    ]
]
JUNK = st.sampled_from(
    [
        *(None, True, 0, -1, 1 << 40, 0.5, 1e300, "", "*", "a b", "a.b/c", "10.0.0.300", "5s", "9" * 40 + "s"),
        *("(", "\x00", "\u2028", "é", "unix:///", "%", [], [None], [[]], [{"a": 1}]),
        *({}, {"": ""}, {"a": None}, {"regex": "("}, {True: 1}),
    ]
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, one in below for spot in spots(one, (*path, key)))]


def changed(draw: st.DrawFn, shape: Any) -> Any:
    whole = {"": copy.deepcopy(shape)}
    path = ("", *draw(st.sampled_from(spots(shape))))
    holder: Any = whole
    for key in path[:-1]:
        holder = holder[key]
    how = draw(st.sampled_from(["junk", "junk", "gone", "more", "twice"]))
    if how == "gone" and path != ("",):
        del holder[path[-1]]
    elif how == "more" and isinstance(holder[path[-1]], dict):
        holder[path[-1]][draw(st.sampled_from(["x", "", "host", "regex", "port", "kind", "spec"]))] = draw(JUNK)
    elif how == "twice" and isinstance(holder[path[-1]], list):
        holder[path[-1]] *= 2
    else:
        holder[path[-1]] = draw(JUNK)
    return whole[""]


@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_nothing_in_the_shape_of_a_kind_ends_in_anything_but_a_problem(tmp_path: Path, data: st.DataObject) -> None:
    objects = []
    for shape in data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3)):
        objects.append(shape)
        for _ in range(data.draw(st.integers(1, 3))):
            objects[-1] = data.draw(st.composite(changed)(objects[-1]))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all(objects, allow_unicode=False))
    state = load(tmp_path)
    assert all("\n" not in problem.text for problem in state.problems)
    if all(isinstance(one, dict) and all(isinstance(key, str) for key in one) for one in objects):
        (tmp_path / "a.yaml").unlink()
        (tmp_path / "a.json").write_text(json.dumps(objects))
        load(tmp_path)
        (tmp_path / "a.json").unlink()


def test_a_field_that_is_nearly_one_that_is_known_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "object.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec:\n  hosts: [a]\n"
        "  http: [{route: [{destination: {host: a}}], retires: {attempts: 2}, somethingElse: 1}]\n"
    )
    texts = "\n".join(problem.text for problem in load(tmp_path).problems)
    assert "retires: is not known; did you mean 'retries'?; it has no effect" in texts
    assert "somethingElse: is not translated, and has no effect" in texts
