"""A pod joins Istio by what Kubernetes gives it: two lines, no bootstrap, no agent. Its istiod listens on real TLS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import meshsdk
from meshsdk.bootstrap import parse_bootstrap
from meshsdk.istio_pod import LABELS_FILE, ROOTS_FILE, TOKEN_FILE, pod_bootstrap
from meshsdk.node import Locality

from .certificates import spiffe
from .conftest import destination_rule, service
from .istiod import Istiod, write_token
from .patience import PATIENCE
from .server.running import one_port, serving
from .server.test_istiod_inbound import ALLOW, inbound
from .server.test_serve import MUTUAL, who_asks

POD = {"POD_NAME": "web-0", "POD_NAMESPACE": "default", "INSTANCE_IP": "10.1.2.3", "SERVICE_ACCOUNT": "web"}


def place(root: Path, file: str) -> Path:
    return root / file.lstrip("/")


def mount(root: Path, account: str = "web", roots: bytes = b"", labels: dict[str, str] | None = None) -> Path:
    """What a pod's manifest mounts, below a folder that stands for `/`."""
    write_token(place(root, TOKEN_FILE), account=account)
    for file, content in ((ROOTS_FILE, roots), (LABELS_FILE, downward(labels or {}).encode())):
        path = place(root, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def downward(labels: dict[str, str]) -> str:
    """Labels as the downward API writes them."""
    return "".join(f"{name}={json.dumps(value)}\n" for name, value in labels.items())


@pytest.fixture
def port() -> int:
    return one_port()


@pytest.fixture
def istiod(tmp_path: Path, port: int) -> Iterator[Istiod]:
    """It knows the service `web` on a port of this machine, which takes callers of the service account `friend`."""
    folder = tmp_path / "istiod"
    folder.mkdir()
    (folder / "web.yaml").write_text(service("web", port) + destination_rule("web", MUTUAL))
    (folder / "inbound.json").write_text(json.dumps(inbound(port, ALLOW)).replace("0.0.0.0", "127.0.0.1"))
    with Istiod(folder) as running:
        yield running


@pytest.fixture
def join(tmp_path: Path, istiod: Istiod, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], meshsdk.Mesh]:
    """`Mesh()` in a pod of a service account."""

    def make(account: str) -> meshsdk.Mesh:
        root = mount(tmp_path / account, account, istiod.roots, {"app": account})
        names = {"SERVICE_ACCOUNT": account, "ISTIOD_ADDR": istiod.address, "MESHSDK_POD_ROOT": str(root)}
        for name, value in {**POD, **names}.items():
            monkeypatch.setenv(name, value)
        return meshsdk.Mesh()

    return make


def test_a_client_and_a_server_join_and_are_held_to_policy(
    join: Callable[[str], meshsdk.Mesh], istiod: Istiod, port: int
) -> None:
    with join("web") as mesh, serving(who_asks, mesh, port):
        answers = {}
        for account in ("friend", "stranger"):
            with join(account) as peer, peer.client(timeout=PATIENCE) as client:
                response = client.get("http://web/")
            answers[account] = (response.status_code, response.text)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/")
    assert answers == {"friend": (200, spiffe("friend")), "stranger": (403, "RBAC: access denied")}
    assert set(istiod.callers) == {"default/web", "default/friend", "default/stranger"}


def test_istiod_is_told_who_the_pod_is(join: Callable[[str], meshsdk.Mesh], istiod: Istiod) -> None:
    with join("friend") as mesh:
        mesh.wait_ready("web", PATIENCE)
    node = istiod.nodes[0]
    assert node.id == "sidecar~10.1.2.3~web-0.default~default.svc.cluster.local"
    assert dict(node.metadata) == {
        "GENERATOR": "grpc",
        "NAME": "web-0",
        "NAMESPACE": "default",
        "SERVICE_ACCOUNT": "friend",
        "CLUSTER_ID": "Kubernetes",
        "LABELS": {"app": "friend"},
    }


def test_a_bootstrap_of_the_environment_comes_before_the_pods_own(
    join: Callable[[str], meshsdk.Mesh], istiod: Istiod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tls = {"type": "tls", "config": {"ca_certificate_file": str(place(tmp_path / "friend", ROOTS_FILE))}}
    server = {"server_uri": istiod.address, "channel_creds": [tls]}
    (tmp_path / "agent.json").write_text(json.dumps({"xds_servers": [server], "node": {"id": "the agent's"}}))
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", str(tmp_path / "agent.json"))
    told, until = "", time.monotonic() + PATIENCE
    with join("friend") as mesh:
        while "the bootstrap shows it nothing" not in told and time.monotonic() < until:
            with pytest.raises(TimeoutError) as waited:
                mesh.wait_ready("web", 0.1)
            told = str(waited.value)
    assert "the bootstrap shows it nothing" in told


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "web-0")
    monkeypatch.setenv("POD_NAMESPACE", "")
    monkeypatch.setenv("MESHSDK_POD_ROOT", str(tmp_path))
    with pytest.raises(meshsdk.BootstrapError) as caught:
        meshsdk.Mesh()
    message = str(caught.value)
    assert "POD_NAMESPACE (fieldRef metadata.namespace)" in message
    assert "INSTANCE_IP (fieldRef status.podIP)" in message
    assert f"{place(tmp_path, TOKEN_FILE)} (a projected serviceAccountToken with the audience istio-ca)" in message
    assert f"{place(tmp_path, ROOTS_FILE)} (the ConfigMap istio-ca-root-cert" in message
    assert "POD_NAME " not in message


def test_where_nothing_speaks_for_a_pod_the_message_lists_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHSDK_POD_ROOT", str(tmp_path))
    with pytest.raises(meshsdk.BootstrapError, match=r"GRPC_XDS_BOOTSTRAP .* MESHSDK_CONFIG .* a pod joins Istio"):
        meshsdk.Mesh()


def environment(root: Path, **more: str) -> dict[str, str]:
    return {**POD, "MESHSDK_POD_ROOT": str(root), **more}


def test_istios_own_variables_go_into_the_nodes_metadata(tmp_path: Path) -> None:
    names = {"ISTIO_META_CLUSTER_ID": "east", "ISTIO_META_NETWORK": "n1", "ISTIO_META_CLUSTER_DOMAIN": "acme.local"}
    document = pod_bootstrap(environment(mount(tmp_path), **names, ISTIO_META_GENERATOR="other"))
    assert document is not None
    node = parse_bootstrap(document).node
    assert node.id == "sidecar~10.1.2.3~web-0.default~default.svc.acme.local"
    assert node.cluster_domain == "acme.local"
    assert (node.metadata["CLUSTER_ID"], node.metadata["NETWORK"]) == ("east", "n1")
    assert node.metadata["GENERATOR"] == "grpc"
    assert document["certificate_providers"]["default"]["config"]["cluster_id"] == "east"


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({}, "istiod.istio-system.svc:15012"),
        ({"ISTIOD_ADDR": "istiod-canary.istio-system.svc"}, "istiod-canary.istio-system.svc:15012"),
        ({"ISTIOD_ADDR": "10.0.0.9:15112"}, "10.0.0.9:15112"),
    ],
)
def test_istiod_is_where_istio_installs_it_unless_told_otherwise(
    tmp_path: Path, told: dict[str, str], address: str
) -> None:
    document = pod_bootstrap(environment(mount(tmp_path), **told))
    assert document is not None
    assert document["xds_servers"][0]["server_uri"] == address
    assert document["certificate_providers"]["default"]["config"]["address"] == address


LOCALITIES = {
    "nothing": ({}, Locality()),
    "Istio's label": ({"topology.istio.io/locality": "eu.eu-1.rack1"}, Locality("eu", "eu-1", "rack1")),
    "Istio's old label": ({"istio-locality": "eu/eu-1"}, Locality("eu", "eu-1")),
    "Kubernetes' labels": (
        {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-2"},
        Locality("eu", "eu-2"),
    ),
}


@pytest.mark.parametrize("told_by", LOCALITIES)
def test_the_pods_labels_say_where_it_is(tmp_path: Path, told_by: str) -> None:
    labels, locality = LOCALITIES[told_by]
    document = pod_bootstrap(environment(mount(tmp_path, labels=labels)))
    assert document is not None
    assert parse_bootstrap(document).node.locality == locality


WRONG = {
    "an address that is none": ({"INSTANCE_IP": "web-0"}, "", "INSTANCE_IP"),
    "labels that are none": ({}, "app=web\n", "etc/istio/pod/labels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, what: str) -> None:
    names, labels, named = WRONG[what]
    place(mount(tmp_path), LABELS_FILE).write_text(labels)
    with pytest.raises(meshsdk.BootstrapError, match=named):
        pod_bootstrap(environment(tmp_path, **names))
