"""Each kind of finding: that it is found, where it stands, and that it is gone when its cure is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

import meshsdk
from meshsdk.analysis import RULES, Finding, Severity, analyze

# Two services and who serves them; nothing is wrong with it.
MESH = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: http, port: 80, targetPort: 9080}, {name: grpc-admin, port: 90}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-0}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ratings-0}
spec: {address: 10.0.0.2, labels: {app: ratings, version: v1}}
"""


def virtual_service(http: str, name: str = "reviews", rest: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {{hosts: [{name}], http: {http}{rest}}}
"""


def destination_rule(spec: str, name: str = "reviews") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec: {{host: {name}, {spec}}}
"""


def an_object(kind: str, version: str, spec: str, name: str = "one", metadata: str = "") -> str:
    return f"\n---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{metadata}}}\nspec: {spec}\n"


def strict(spec: str = "{mtls: {mode: STRICT}}") -> str:
    return an_object("PeerAuthentication", "security.istio.io/v1", spec)


def http_route(rest: str, parent: str = "ratings") -> str:
    spec = f"{{parentRefs: [{{kind: Service, group: '', name: {parent}}}], rules: [{{{rest}}}]}}"
    return an_object("HTTPRoute", "gateway.networking.k8s.io/v1", spec)


def entry(endpoints: str) -> str:
    ports = "ports: [{number: 80, name: http, protocol: HTTP}]"
    spec = f"{{hosts: [x.example], resolution: STATIC, {ports}, endpoints: {endpoints}}}"
    return an_object("ServiceEntry", "networking.istio.io/v1", spec)


MESH_CONFIG = (
    "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    "data: {mesh: 'trustDomain: cluster.local'}\n"
)
TO_REVIEWS = "[{route: [{destination: {host: reviews}}]}]"
LABEL = "security.istio.io/tlsMode: istio"


def findings(tmp_path: Path, text: str) -> list[Finding]:
    (tmp_path / "mesh.yaml").write_text(text.removeprefix("\n"))
    return [one for one in analyze([tmp_path]).findings if one.code != "over-grpc"]


# Code, what is added to the mesh above, where it stands, and what of it is to be replaced by what.
CASES = [
    (
        "unknown-host",
        virtual_service("[{route: [{destination: {host: reviewz}}]}]"),
        "spec.http[0].route[0].destination.host",
        ("reviewz", "reviews"),
    ),
    (
        "unknown-host",
        virtual_service("[{route: [{destination: {host: reviews.defualt.svc.cluster.local}}]}]"),
        "spec.http[0].route[0].destination.host",
        ("defualt", "default"),
    ),
    (
        "unknown-host",
        virtual_service("[{route: [{destination: {host: reviews}}], mirrors: [{destination: {host: revuews}}]}]"),
        "spec.http[0].mirrors[0].destination.host",
        ("revuews", "reviews"),
    ),
    (
        "unknown-port",
        virtual_service("[{route: [{destination: {host: ratings, port: {number: 9080}}}]}]"),
        "spec.http[0].route[0].destination.port.number",
        ("number: 9080", "number: 80"),
    ),
    (
        "unknown-port",
        virtual_service("[{route: [{destination: {host: reviews}}]}]", name="ratings"),
        "spec.http[0].route[0].destination",
        ("host: reviews}", "host: reviews, port: {number: 9080}}"),
    ),
    (
        "unknown-host",
        http_route("backendRefs: [{name: reviewz, port: 9080}]"),
        "spec.rules[0].backendRefs[0].name",
        ("reviewz", "reviews"),
    ),
    (
        "unknown-port",
        http_route("backendRefs: [{name: reviews, port: 80}]"),
        "spec.rules[0].backendRefs[0].port",
        ("port: 80}]}]", "port: 9080}]}]"),
    ),
    (
        "unused-empty-subset",
        entry("[{address: 10.0.0.7, labels: {version: v1}}]")
        + destination_rule("subsets: [{name: v1, labels: {version: v2}}]", "x.example"),
        "spec.subsets[0]",
        ("version: v2", "version: v1"),
    ),
    ("no-endpoints", entry("[]"), "", ("endpoints: []", "endpoints: [{address: 10.0.0.7}]")),
    (
        "ambiguous-port",
        virtual_service("[{route: [{destination: {host: ratings}}]}]", name="ratings"),
        "spec.http[0].route[0].destination",
        ("host: ratings}", "host: ratings, port: {number: 80}}"),
    ),
    (
        "unknown-subset",
        virtual_service("[{route: [{destination: {host: reviews, subset: v2}}]}]")
        + destination_rule("subsets: [{name: v1, labels: {version: v1}}]"),
        "spec.http[0].route[0].destination.subset",
        ("subset: v2", "subset: v1"),
    ),
    (
        "empty-subset",
        virtual_service("[{route: [{destination: {host: reviews, subset: v1}}]}]")
        + destination_rule("subsets: [{name: v1, labels: {version: v9}}]"),
        "spec.subsets[0]",
        ("version: v9", "version: v1"),
    ),
    (
        "unused-empty-subset",
        destination_rule("subsets: [{name: v1, labels: {version: v9}}]"),
        "spec.subsets[0]",
        ("version: v9", "version: v1"),
    ),
    (
        "unknown-rule-host",
        destination_rule("trafficPolicy: {}", "rewievs"),
        "spec.host",
        ("host: rewievs", "host: reviews"),
    ),
    (
        "unknown-rule-host",
        an_object("DestinationRule", "networking.istio.io/v1", "{host: '*.exmaple.com'}")
        + entry("[{address: 10.0.0.7}]"),
        "spec.host",
        ("'*.exmaple.com'", "'*.example'"),
    ),
    (
        "unknown-delegate",
        virtual_service("[{delegate: {name: of-reviews}}]")
        + virtual_service(TO_REVIEWS, "of-ratings").replace("hosts: [of-ratings], ", ""),
        "spec",
        ("of-reviews", "of-ratings"),
    ),
    (
        "conflicting-hosts",
        virtual_service(TO_REVIEWS)
        + virtual_service(TO_REVIEWS, "more").replace("[more]", "[reviews.default.svc.cluster.local]"),
        "spec.hosts",
        ("[reviews.default.svc.cluster.local]", "[ratings]"),
    ),
    (
        "unreachable-rule",
        virtual_service(
            "[{route: [{destination: {host: reviews}}]}, {match: [{uri: {exact: /x}}], redirect: {uri: /}}]"
        ),
        "spec.http[1]",
        ("[{route", "[{match: [{uri: {prefix: /v}}], route"),
    ),
    (
        "ineffective-match",
        virtual_service(
            "[{match: [{uri: {prefix: /v}}], route: [{destination: {host: reviews}}]},"
            " {match: [{uri: {exact: /v/x}}, {uri: {exact: /w}}], redirect: {uri: /}}]"
        ),
        "spec.http[1].match[0]",
        ("exact: /v/x", "exact: /x/v"),
    ),
    (
        "unknown-field",
        virtual_service("[{route: [{destination: {host: reviews}}], retires: {attempts: 2}}]"),
        "spec.http[0].retires",
        ("retires", "retries"),
    ),
    (
        "deprecated-field",
        virtual_service("[{route: [{destination: {host: reviews}}], fault: {delay: {percent: 5, fixedDelay: 1s}}}]"),
        "spec.http[0].fault.delay.percent",
        ("percent: 5", "percentage: {value: 5}"),
    ),
    (
        "no-effect",
        virtual_service("[{route: [{destination: {host: reviews}}], corsPolicy: {allowOrigins: [{exact: x}]}}]"),
        "spec.http[0].corsPolicy",
        (", corsPolicy: {allowOrigins: [{exact: x}]}", ""),
    ),
    (
        "no-endpoints",
        an_object("Service", "v1", "{selector: {app: web}, ports: [{name: http, port: 80}]}", "web"),
        "",
        ("app: web", "app: reviews"),
    ),
    (
        "port-without-workload",
        an_object(
            "Service",
            "v1",
            "{selector: {app: reviews}, ports: [{name: http, port: 1, targetPort: web}, {name: http-x, port: 2}]}",
            "web",
        ),
        "spec.ports[0].targetPort",
        ("targetPort: web", "targetPort: 9080"),
    ),
    (
        "port-without-workload",
        strict("{selector: {matchLabels: {app: ratings}}, portLevelMtls: {80: {mode: DISABLE}}}"),
        "spec.portLevelMtls['80']",
        ("{80: ", "{9080: "),
    ),
    (
        "port-transport",
        an_object(
            "Service", "v1", "{selector: {app: reviews}, ports: [{name: http, port: 80, protocol: HTTP}]}", "web"
        ),
        "spec.ports[0].protocol",
        ("protocol: HTTP", "protocol: TCP"),
    ),
    (
        "untold-protocol",
        an_object("Service", "v1", "{selector: {app: reviews}, ports: [{name: cache, port: 6379}]}", "web"),
        "spec.ports[0]",
        ("name: cache", "name: tcp-cache"),
    ),
    (
        "unknown-annotation",
        an_object(
            "Service",
            "v1",
            "{selector: {app: reviews}, ports: [{name: http, port: 80}]}",
            "web",
            ", annotations: {networking.istio.io/exprotTo: '.'}",
        ),
        "metadata.annotations['networking.istio.io/exprotTo']",
        ("exprotTo", "exportTo"),
    ),
    (
        "strict-plaintext",
        strict("{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}"),
        "spec.labels",
        ("version: v1}}", f"version: v1, {LABEL}}}}}"),
    ),
    (
        "strict-plaintext",
        strict("{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}")
        + destination_rule("trafficPolicy: {tls: {mode: DISABLE}}"),
        "",
        ("mode: DISABLE", "mode: ISTIO_MUTUAL"),
    ),
    (
        "mutual-plaintext",
        strict("{mtls: {mode: DISABLE}}") + destination_rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
        "",
        ("mtls: {mode: DISABLE}", "mtls: {mode: PERMISSIVE}"),
    ),
    (
        "conflicting-sidecars",
        an_object("Sidecar", "networking.istio.io/v1", "{egress: [{hosts: ['./*']}]}")
        + an_object("Sidecar", "networking.istio.io/v1", "{egress: [{hosts: ['./*']}]}", "two"),
        "",
        ("kind: Sidecar\nmetadata: {name: two", "kind: Sidecar\nmetadata: {namespace: other, name: two"),
    ),
    (
        "conflicting-telemetries",
        an_object("Telemetry", "telemetry.istio.io/v1", "{selector: {matchLabels: {app: reviews}}}")
        + an_object("Telemetry", "telemetry.istio.io/v1", "{selector: {matchLabels: {version: v1}}}", "two"),
        "",
        ("matchLabels: {version: v1}", "matchLabels: {app: ratings}"),
    ),
    (
        "selects-nothing",
        strict("{selector: {matchLabels: {app: reviewz}}, mtls: {mode: DISABLE}}"),
        "spec.selector.matchLabels",
        ("reviewz", "reviews"),
    ),
    (
        "unknown-namespace",
        "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
        + an_object(
            "AuthorizationPolicy", "security.istio.io/v1", "{rules: [{from: [{source: {namespaces: [shpo]}}]}]}"
        ),
        "spec.rules[0].from[0].source.namespaces[0]",
        ("[shpo]", "[shop]"),
    ),
    (
        "endpoints-without-service",
        "\n---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
        "subsets: [{addresses: [{ip: 10.0.0.9}], ports: [{name: http, port: 1}]}]\n",
        "",
        ("kind: Endpoints\nmetadata: {name: web}", "kind: Endpoints\nmetadata: {name: reviews}"),
    ),
    (
        "unknown-provider",
        an_object("Telemetry", "telemetry.istio.io/v1", "{accessLogging: [{filter: {expression: 'true'}}]}"),
        "spec.accessLogging[0]",
        ("[{filter", "[{providers: [{name: envoy}], filter"),
    ),
    (
        "unknown-provider",
        an_object("Telemetry", "telemetry.istio.io/v1", "{accessLogging: [{providers: [{name: nobody}]}]}")
        + MESH_CONFIG,
        "",
        ("name: nobody", "name: envoy"),
    ),
    (
        "policy-not-carried-out",
        an_object(
            "AuthorizationPolicy", "security.istio.io/v1", "{action: CUSTOM, provider: {name: nobody}, rules: [{}]}"
        ),
        "",
        ("action: CUSTOM, provider: {name: nobody}", "action: ALLOW"),
    ),
    (
        "host-twice",
        an_object(
            "ServiceEntry",
            "networking.istio.io/v1",
            "{hosts: [x.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
        )
        + an_object(
            "ServiceEntry",
            "networking.istio.io/v1",
            "{hosts: [x.example], resolution: DNS, ports: [{number: 81, name: http, protocol: HTTP}]}",
            "two",
        ),
        "",
        ("[x.example], resolution: DNS, ports: [{number: 81", "[y.example], resolution: DNS, ports: [{number: 81"),
    ),
    (
        "policy-twice",
        strict("{mtls: {mode: PERMISSIVE}}") + strict("{mtls: {mode: DISABLE}}"),
        "",
        ("{name: one}\nspec: {mtls: {mode: DISABLE}}", "{name: two}\nspec: {selector: {matchLabels: {app: reviews}}}"),
    ),
    (
        "twice-in-file",
        virtual_service(TO_REVIEWS) + virtual_service(TO_REVIEWS),
        "",
        (virtual_service(TO_REVIEWS) * 2, virtual_service(TO_REVIEWS)),
    ),
    (
        "invalid",
        virtual_service("[{route: [{destination: {host: reviews}}], timeout: soon}]"),
        "spec.http[0].timeout",
        ("soon", "1s"),
    ),
    (
        "unknown-kind",
        virtual_service(TO_REVIEWS).replace("kind: VirtualService", "kind: VirtualServise"),
        "",
        ("VirtualServise", "VirtualService"),
    ),
    (
        "unknown-kind",
        strict().replace("kind: PeerAuthentication\n", ""),
        "kind",
        (strict().replace("kind: PeerAuthentication\n", ""), ""),
    ),
    (
        "not-carried-out",
        an_object("WasmPlugin", "extensions.istio.io/v1alpha1", "{url: oci://x}"),
        "",
        (an_object("WasmPlugin", "extensions.istio.io/v1alpha1", "{url: oci://x}"), ""),
    ),
    ("unreadable", "\n---\n{", "", ("\n---\n{", "")),
]


@pytest.mark.parametrize(
    ("code", "added", "path", "cure"), CASES, ids=[f"{one[0]}-{place}" for place, one in enumerate(CASES)]
)
def test_it_is_found_where_it_stands_and_gone_when_it_is_mended(
    tmp_path: Path, code: str, added: str, path: str, cure: tuple[str, str]
) -> None:
    found = [one for one in findings(tmp_path, MESH + added) if one.code == code]
    assert path in [one.place.path for one in found], found
    first = next(one for one in found if one.place.path == path)
    if first.place.file:
        assert first.place.file == str(tmp_path / "mesh.yaml")
    assert first.severity is RULES[code].severity
    assert cure[0] in MESH + added
    left = findings(tmp_path, (MESH + added).replace(cure[0], cure[1]))
    assert [one for one in left if one.code == code] == []


def of_rules() -> list[object]:
    """Cases whose VirtualService sends requests somewhere."""
    codes = ("unknown-host", "unknown-port", "unknown-subset", "empty-subset")
    return [
        pytest.param(added, cure, id=f"{code}-{place}")
        for place, (code, added, _, cure) in enumerate(CASES)
        if code in codes and "kind: VirtualService" in added and "mirrors" not in added
    ]


@pytest.mark.parametrize(("added", "cure"), of_rules())
def test_what_is_an_error_of_a_rule_is_one_of_requests(tmp_path: Path, added: str, cure: tuple[str, str]) -> None:
    path = tmp_path / "mesh.yaml"
    url = "http://ratings/" if "hosts: [ratings]" in added else "http://reviews:9080/"
    troubled = []
    for text in (MESH + added, (MESH + added).replace(*cure)):
        path.write_text(text)
        with meshsdk.Mesh(config=path) as mesh:
            troubled.append([one.problem for one in mesh.explain("GET", url).clusters if one.problem])
    assert troubled[0]
    assert troubled[1] == []


def test_nothing_is_found_of_a_mesh_that_is_right(tmp_path: Path) -> None:
    assert findings(tmp_path, MESH) == []


# Told of files by themselves or of many files, below.
OF_FILES = {"alternatives", "services-elsewhere", "workloads-elsewhere", "pods-elsewhere", "over-grpc"}


def test_each_kind_of_finding_has_a_case() -> None:
    assert {one[0] for one in CASES} | OF_FILES == RULES.keys()


def test_a_route_without_its_service_has_no_effect_there_and_is_warned_of(tmp_path: Path) -> None:
    [one] = findings(tmp_path, MESH + http_route("backendRefs: [{name: reviews, port: 9080}]", "ratingz"))
    assert (one.code, one.place.path, one.severity) == ("unknown-host", "spec.parentRefs[0].name", Severity.WARNING)
    assert one.text.endswith("did you mean 'ratings.default.svc.cluster.local'?: the route has no effect there")


def test_a_route_of_gateways_is_none_of_ours(tmp_path: Path) -> None:
    spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: nobody, port: 1}]}]}"
    (tmp_path / "mesh.yaml").write_text(an_object("HTTPRoute", "gateway.networking.k8s.io/v1", spec).lstrip("\n-"))
    report = analyze([tmp_path])
    assert report.findings == ()
    assert report.not_ours == {"HTTPRoute for gateways": 1}


def test_rules_for_another_namespace_are_told_once(tmp_path: Path) -> None:
    text = MESH + virtual_service("[{route: [{destination: {host: a.shop.svc.cluster.local, subset: v1}}]}]")
    text += virtual_service("[{route: [{destination: {host: b.shop.svc.cluster.local}}]}]", "ratings")
    text += http_route("backendRefs: [{name: c, namespace: shop, port: 80}]")
    [one] = findings(tmp_path, text)
    assert (one.code, one.severity) == ("services-elsewhere", Severity.INFO)
    assert one.text == "none of these files defines a.shop.svc.cluster.local, b.shop.svc.cluster.local, c"
    assert [place.kind for place in one.others] == ["VirtualService", "VirtualService", "HTTPRoute"]


def test_a_provider_may_be_one_of_a_mesh_config_that_is_elsewhere(tmp_path: Path) -> None:
    telemetry = an_object("Telemetry", "telemetry.istio.io/v1", "{accessLogging: [{providers: [{name: otel}]}]}")
    [one] = findings(tmp_path, MESH + telemetry)
    assert (one.code, one.severity) == ("unknown-provider", Severity.INFO)
