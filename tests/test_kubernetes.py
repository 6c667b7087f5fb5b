"""integrations/kubernetes: what its manifests mount is what `Mesh()` reads; Kubernetes and the mesh take them all."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.istio_pod import LABELS_FILE, ROOTS_FILE, TOKEN_FILE, pod_bootstrap

from .conftest import service
from .istiod import Istiod, write_token
from .patience import PATIENCE

MANIFESTS = Path(__file__).parent.parent / "integrations" / "kubernetes"
OVERLAYS = ("sidecar", "migration", "sdk")
VERSION = "1.31.0"

# What the kubelet knows of a pod (Kubernetes, pkg/fieldpath).
POD = {
    "metadata.name": "web-7d9f-x2x",
    "metadata.namespace": "default",
    "status.podIP": "10.1.2.3",
    "spec.serviceAccountName": "web",
}


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay, as kustomize makes them."""
    folder = str(MANIFESTS / "overlays" / overlay)
    if shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    else:
        pytest.skip("neither kustomize nor kubectl is on this machine")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def labels_of(deployment: dict[str, Any]) -> dict[str, str]:
    return dict(deployment["spec"]["template"]["metadata"]["labels"])


@pytest.fixture(scope="module")
def patch() -> dict[str, Any]:
    """What the component adds to pods."""
    loaded: dict[str, Any] = yaml.safe_load((MANIFESTS / "components" / "sdk" / "pods.yaml").read_text())
    return loaded["spec"]["template"]


def variables(pod: dict[str, Any]) -> dict[str, str]:
    """The environment of a pod's container, as the kubelet makes it."""
    (container,) = pod["spec"]["containers"]
    return {one["name"]: POD[one["valueFrom"]["fieldRef"]["fieldPath"]] for one in container["env"]}


def files(pod: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and source of each file that a pod's container sees."""
    (container,) = pod["spec"]["containers"]
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    for mount in container["volumeMounts"]:
        assert mount["readOnly"] is True
        volume = volumes.pop(mount["name"])
        for source in volume.get("projected", {}).get("sources", ()):
            yield f"{mount['mountPath']}/{source['serviceAccountToken']['path']}", source
        for item in volume.get("downwardAPI", {}).get("items", ()):
            yield f"{mount['mountPath']}/{item['path']}", item
        if "configMap" in volume:
            # The one key of it (istio pilot/pkg/serviceregistry/kube/controller/namespacecontroller.go).
            yield f"{mount['mountPath']}/root-cert.pem", volume
    assert not volumes, "each volume is mounted"


class Recorded(dict[str, str]):
    """An environment that knows what was asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def start(pod: dict[str, Any], root: Path, roots: bytes) -> Recorded:
    """What the kubelet does before a container runs: make its files below a folder, and its environment."""
    for path, source in files(pod):
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True)
        if "serviceAccountToken" in source:
            write_token(file, account="web", audience=source["serviceAccountToken"]["audience"])
        elif "configMap" in source:
            assert source["configMap"]["name"] == "istio-ca-root-cert"
            file.write_bytes(roots)
        else:
            assert source["fieldRef"]["fieldPath"] == "metadata.labels"
            file.write_text("".join(f'{name}="{value}"\n' for name, value in pod["metadata"]["labels"].items()))
    return Recorded({**variables(pod), "MESHSDK_POD_ROOT": str(root)})


def test_what_is_mounted_is_what_a_mesh_reads(patch: dict[str, Any], tmp_path: Path) -> None:
    assert sorted(path for path, _ in files(patch)) == sorted((TOKEN_FILE, ROOTS_FILE, LABELS_FILE))
    environment = start(patch, tmp_path, b"")
    document = pod_bootstrap(environment)
    assert document is not None
    assert set(variables(patch)) == environment.asked - {"ISTIOD_ADDR", "MESHSDK_POD_ROOT"}
    assert document["node"]["metadata"]["LABELS"] == patch["metadata"]["labels"]


def test_a_pod_of_the_manifests_joins(patch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "istiod").mkdir()
    (tmp_path / "istiod" / "mesh.yaml").write_text(service("reviews", 1))
    with Istiod(tmp_path / "istiod") as istiod:
        for name, value in start(patch, tmp_path / "pod", istiod.roots).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ISTIOD_ADDR", istiod.address)
        with meshsdk.Mesh() as mesh:
            mesh.wait_ready("reviews", PATIENCE)
            mesh.ssl_context()
            assert mesh.status()["identity"]["spiffe_id"] == "spiffe://cluster.local/ns/default/sa/web"
    assert istiod.nodes[0].id == "sidecar~10.1.2.3~web-7d9f-x2x.default~default.svc.cluster.local"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_object_and_the_mesh_every_rule(overlay: str, tmp_path: Path) -> None:
    objects = rendered(overlay)
    for one in objects:
        if "istio.io" not in one["apiVersion"]:
            kubernetes_validate.validate(one, VERSION, strict=True)
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump_all(objects))
    folder = Folder(tmp_path)
    folder.refresh()
    assert not folder.state.errors
    told = [
        one.text for one in folder.state.problems if not any(kind in one.text for kind in ("Deployment", "Account"))
    ]
    assert told == [], "each rule is carried out"


def test_pods_have_a_sidecar_or_the_sdk_and_never_both() -> None:
    for overlay, expected in (
        ("sidecar", {"web": "true"}),
        ("migration", {"web": "true", "web-sdk": "false"}),
        ("sdk", {"web": "false"}),
    ):
        deployments = of_kind(rendered(overlay), "Deployment")
        assert {name: labels_of(one)["sidecar.istio.io/inject"] for name, one in deployments.items()} == expected
        for one in deployments.values():
            labels, (container,) = labels_of(one), one["spec"]["template"]["spec"]["containers"]
            has_sdk = labels["sidecar.istio.io/inject"] == "false"
            assert (labels.get("security.istio.io/tlsMode") == "istio") is has_sdk
            assert ("env" in container, "volumeMounts" in container) == (has_sdk, has_sdk)
            probed = {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")}
            assert probed == {"health"}, "a port outside of the mesh, which the kubelet may ask in plaintext"


def test_a_migration_adds_pods_and_a_split_and_changes_nothing_that_was_there() -> None:
    before, between = rendered("sidecar"), rendered("migration")
    added = [one for one in between if one not in before]
    assert all(one in between for one in before), "the way back is to remove what was added"
    assert sorted(one["kind"] for one in added) == ["Deployment", "VirtualService"]
    deployments = of_kind(between, "Deployment")
    selectors = {name: one["spec"]["selector"]["matchLabels"] for name, one in deployments.items()}
    for name, one in deployments.items():
        assert [other for other, labels in selectors.items() if labels.items() <= labels_of(one).items()] == [name]
        assert of_kind(between, "Service")["web"]["spec"]["selector"].items() <= labels_of(one).items()
        assert one["spec"]["template"]["spec"]["serviceAccountName"] == "web"
    subsets = of_kind(between, "DestinationRule")["web"]["spec"]["subsets"]
    (route,) = of_kind(between, "VirtualService")["web"]["spec"]["http"]
    assert [one["destination"]["subset"] for one in route["route"]] == [one["name"] for one in subsets]
    chosen = [
        name
        for one in subsets
        for name, pods in deployments.items()
        if one["labels"].items() <= labels_of(pods).items()
    ]
    assert chosen == ["web", "web-sdk"]


def test_the_selector_of_a_deployment_stays_the_same_from_beginning_to_end() -> None:
    before, after = (of_kind(rendered(overlay), "Deployment")["web"] for overlay in ("sidecar", "sdk"))
    assert before["spec"]["selector"] == after["spec"]["selector"], "Kubernetes lets nobody change it"
