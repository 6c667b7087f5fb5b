"""A real repository passes: what is not ours is counted, what must be rendered is named, and nothing else is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshsdk.analysis import Report, Severity, analyze
from tests.benchmarks.dump import write_dump
from tests.controlplane.istio_source import istio_source

from .repositories import BOOKINFO, DUMP, write_boutique

SOURCE = istio_source()
PUBLISHED = SOURCE / "samples" / "bookinfo" if SOURCE is not None else None


def told(report: Report, *severities: Severity) -> list[str]:
    return [f"{one.code}: {one.place}" for one in report.findings if one.severity in severities]


def bookinfos() -> list[object]:
    published = [PUBLISHED] if PUBLISHED is not None and PUBLISHED.is_dir() else []
    return [
        pytest.param(one, id=name) for one, name in zip([BOOKINFO, *published], ("kept", "published"), strict=False)
    ]


@pytest.mark.parametrize("bookinfo", bookinfos())
def test_of_bookinfo_nothing_is_said_but_what_is_so(bookinfo: Path) -> None:
    report = analyze([bookinfo / "platform" / "kube", bookinfo / "networking"])
    # Its second rule has no conditions, as the first one: istioctl says so as well (IST0130).
    [unreachable] = told(report, Severity.ERROR, Severity.WARNING)
    assert unreachable.startswith("unreachable-rule: ")
    assert "fault-injection-details-v1.yaml" in unreachable
    assert [one.code for one in report.of(Severity.INFO)] == ["alternatives", "pods-elsewhere"]
    assert report.not_ours["VirtualService for gateways"] == 2


def test_what_bookinfo_has_people_apply_first_is_right() -> None:
    kube, networking = BOOKINFO / "platform" / "kube", BOOKINFO / "networking"
    rules = [networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml"]
    report = analyze([kube / "bookinfo.yaml", *rules])
    assert told(report, Severity.ERROR, Severity.WARNING) == []
    # Subsets for workloads that come later in the tutorial.
    assert {one.code for one in report.findings} == {"pods-elsewhere", "unused-empty-subset"}


def test_rules_without_the_services_are_told_so_once() -> None:
    report = analyze([BOOKINFO / "networking"])
    assert [one.code for one in report.of(Severity.WARNING)] == ["unreachable-rule"]
    assert report.of(Severity.ERROR) == []
    [elsewhere] = [one for one in report.findings if one.code == "services-elsewhere"]
    assert elsewhere.text.startswith("none of these files defines details, productpage, reviews, ratings")


@pytest.mark.parametrize(
    "parts",
    [
        (".",),
        ("kubernetes-manifests",),
        ("kubernetes-manifests", "istio-manifests"),
        ("istio-manifests",),
        ("helm-chart",),
        ("kustomize",),
        ("release",),
    ],
    ids=" ".join,
)
def test_the_boutique_passes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    shop = write_boutique(tmp_path)
    report = analyze([shop / part for part in parts])
    assert told(report, Severity.ERROR, Severity.WARNING) == []
    codes = [one.code for one in report.findings if one.code != "over-grpc"]
    assert len(codes) == len(set(codes)), "one line for each kind at most"


def test_templates_are_named_with_the_command_that_renders_them(tmp_path: Path) -> None:
    shop = write_boutique(tmp_path)
    [templates] = analyze([shop / "helm-chart"]).left_out
    assert templates.what == "Helm templates, which a Mesh refuses as they are"
    assert sorted(Path(one).name for one in templates.files) == ["common.yaml", "frontend.yaml"]
    assert templates.render == f"helm template {shop / 'helm-chart'} | meshsdk check -"


def test_a_template_elsewhere_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """A Mesh that is given it lets nobody in."""
    text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Values.name }}\n"
    (tmp_path / "service.yaml").write_text(text)
    [one] = analyze([tmp_path]).findings
    assert one.code == "unreadable"
    assert one.text.endswith("; render it first, if it is a template")
    (tmp_path / "templates").mkdir()
    (tmp_path / "service.yaml").rename(tmp_path / "templates" / "service.yaml")
    report = analyze([tmp_path])
    assert report.findings == ()
    assert [one.files for one in report.left_out] == [(str(tmp_path / "templates" / "service.yaml"),)]


@pytest.mark.parametrize(
    ("name", "text", "codes"),
    [
        ("data.json", '{"a": 1}\n{"a": 2}\n', []),
        ("data.json", '{"kind": "AuthorizationPolicy"', ["unreadable"]),
        ("policy.yaml", "kind: AuthorizationPolicy\nspec: {\n", ["unreadable"]),
        ("policy.yaml", "spec: {rules: [\n", ["unreadable"]),
    ],
)
def test_what_may_be_a_policy_and_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, text: str, codes: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert [one.code for one in analyze([tmp_path]).findings] == codes


def test_endpoints_of_a_database_make_no_cluster_of_manifests(tmp_path: Path) -> None:
    """What is written by hand says nothing of what is down."""
    shop = write_boutique(tmp_path) / "kubernetes-manifests"
    (shop / "database.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{name: tcp, port: 5432}]}\n---\n"
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\n"
        "subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{name: tcp, port: 5432}]}]\n---\n"
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: []}\n---\n"
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {selector: {app: web}, ports: [{name: http, port: 80}]}\n"
    )
    [one] = [one for one in analyze([shop]).findings if one.code != "over-grpc"]
    assert one.code == "pods-elsewhere"
    assert "default/web" in one.text
    assert "default/db" not in one.text


def test_patches_and_overlays_are_named_with_the_command_that_renders_them(tmp_path: Path) -> None:
    shop = write_boutique(tmp_path)
    patches, overlays = analyze([shop / "kustomize"]).left_out
    assert [Path(one).name for one in patches.files] == ["retries.patch.yaml"]
    assert sorted(Path(one).name for one in overlays.files) == ["all", "network-policies", "service-mesh-istio"]
    assert all(one.render.startswith("kubectl kustomize ") for one in (patches, overlays))


def test_what_an_overlay_adds_is_checked(tmp_path: Path) -> None:
    shop = write_boutique(tmp_path)
    rule = shop / "kustomize" / "components" / "service-mesh-istio" / "frontend.yaml"
    rule.write_text(rule.read_text().replace("host: frontend", "host: frontent"))
    [found] = analyze([shop / "kustomize"]).of(Severity.ERROR)
    assert (found.code, found.place.file) == ("unknown-host", str(rule))


def test_a_dump_of_a_namespace_has_nothing_wrong() -> None:
    report = analyze([DUMP])
    assert report.findings == ()
    assert report.not_ours == {
        "ConfigMap": 3,
        "Deployment": 1,
        "HorizontalPodAutoscaler": 1,
        "Ingress": 1,
        "Job": 1,
        "PodDisruptionBudget": 1,
        "ReplicaSet": 1,
        "Secret": 1,
        "ServiceAccount": 2,
    }
    assert report.not_ours_files == 1


def test_a_dump_without_endpoints_goes_by_its_pods(tmp_path: Path) -> None:
    """As `kubectl get all` gives it."""
    dump = yaml.safe_load(DUMP.read_text())
    dump["items"] = [one for one in dump["items"] if one["kind"] not in ("EndpointSlice", "Endpoints")]
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(dump))
    assert analyze([tmp_path]).findings == ()


def test_in_a_dump_what_is_down_is_told_where_it_stands(tmp_path: Path) -> None:
    dump = yaml.safe_load(DUMP.read_text())
    for one in dump["items"]:
        if one["kind"] == "EndpointSlice" and one["metadata"]["name"].startswith("web-"):
            one["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": False}
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump(dump))
    found = analyze([path]).findings
    assert [(one.code, one.place.kind, one.place.name, one.place.item) for one in found] == [
        ("no-endpoints", "Service", "web", "item 2"),
        ("no-endpoints", "Service", "web-public", "item 3"),
    ]
    assert "none of the endpoints of web.shop.svc.cluster.local is ready" in found[0].text
    assert path.read_text().splitlines()[found[0].place.line - 1].startswith("- apiVersion: v1")


def test_policies_of_one_name_in_different_folders_are_variants(tmp_path: Path) -> None:
    policy = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\n"
        "spec: {mtls: {mode: STRICT}}\n"
    )
    for name in ("dev", "prod"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(policy)
    assert [one.code for one in analyze([tmp_path]).findings] == ["alternatives"]
    (tmp_path / "dev" / "again.yaml").write_text(policy)
    assert "policy-twice" in [one.code for one in analyze([tmp_path]).findings]


def test_a_dump_in_files_by_kind_has_nothing_wrong(tmp_path: Path) -> None:
    report = analyze([write_dump(tmp_path / "dump", services=30, pods=100)])
    assert told(report, Severity.ERROR, Severity.WARNING) == []
