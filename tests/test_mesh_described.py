"""What a Mesh and a decision say of themselves, and whose short names a Mesh over a folder knows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import meshsdk
from meshsdk.identities import DevelopmentIdentity

SHOP = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {ports: [{port: 80}]}\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.yaml").write_text(SHOP)
    return tmp_path


def is_known(mesh: meshsdk.Mesh, url: str = "http://reviews/") -> bool:
    return mesh.explain("GET", url).action == "forward"


def test_short_names_are_those_of_the_namespace_that_is_given(shop: Path) -> None:
    with meshsdk.Mesh(config=shop) as elsewhere, meshsdk.Mesh(config=shop, namespace="shop") as mesh:
        assert not is_known(elsewhere)
        assert is_known(elsewhere, "http://reviews.shop/")
        assert is_known(mesh)


def test_the_environment_names_the_namespace_before_the_pod_does(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "elsewhere")
    monkeypatch.setenv("MESHSDK_NAMESPACE", "shop")
    with meshsdk.Mesh(config=shop) as mesh:
        assert is_known(mesh)
    with meshsdk.Mesh(config=shop, namespace="default") as mesh:
        assert not is_known(mesh)


@pytest.mark.parametrize("as_object", [False, True], ids=["text", "object"])
def test_an_identity_says_the_namespace(shop: Path, as_object: bool) -> None:
    spiffe_id = "spiffe://cluster.local/ns/shop/sa/web"
    identity = DevelopmentIdentity(shop, spiffe_id) if as_object else spiffe_id
    with meshsdk.Mesh(config=shop, identity=identity) as mesh:
        assert is_known(mesh)
    if isinstance(identity, DevelopmentIdentity):
        identity.close()


def test_a_namespace_that_is_none_is_refused(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(meshsdk.BootstrapError, match="namespace must be a name of Kubernetes, is 'a/b'"):
        meshsdk.Mesh(config=shop, namespace="a/b")
    monkeypatch.setenv("MESHSDK_NAMESPACE", "-")
    with pytest.raises(meshsdk.BootstrapError, match="MESHSDK_NAMESPACE: '-' is no namespace"):
        meshsdk.Mesh(config=shop)


def test_with_a_management_server_the_node_says_the_namespace() -> None:
    server = {"server_uri": "localhost:1", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [server], "node": {"id": "x", "metadata": {"NAMESPACE": "shop"}}}
    meshsdk.Mesh(bootstrap=bootstrap, namespace="shop").close()
    with pytest.raises(meshsdk.BootstrapError, match="is 'shop', and namespace='other' was given"):
        meshsdk.Mesh(bootstrap=bootstrap, namespace="other")


def test_a_mesh_says_what_it_is_of_who_it_is_and_how_it_is(shop: Path) -> None:
    mesh = meshsdk.Mesh(config=shop, namespace="shop")
    who = f"<meshsdk.Mesh of {shop}, namespace shop, as spiffe://cluster.local/ns/shop/sa/default"
    assert repr(mesh) == f"{who}, not used yet>"
    assert is_known(mesh)
    assert repr(mesh) == f"{who}, 1 hosts and 1 clusters>"
    mesh.close()
    assert repr(mesh) == f"{who}, closed>"


def test_a_decision_prints_as_the_command_line_shows_it(shop: Path) -> None:
    with meshsdk.Mesh(config=shop, namespace="shop") as mesh:
        lines = str(mesh.explain("GET", "http://reviews/x")).splitlines()
    assert lines[0] == "GET http://reviews/x"
    assert lines[1] == "├── listener reviews.shop.svc.cluster.local:80"
    assert lines[-2:] == [
        "    └── 100% cluster outbound|80||reviews.shop.svc.cluster.local LeastRequest",
        "        └── there are no endpoints",
    ]


@pytest.mark.parametrize("target", ["reviews", "reviews:80", "http://reviews", "http://reviews:80/reviews/1?a=b"])
def test_whether_a_target_is_known_may_be_asked_of_a_host_or_a_url(shop: Path, target: str) -> None:
    with meshsdk.Mesh(config=shop, namespace="shop") as mesh:
        mesh.wait_ready(target)
        asyncio.run(mesh.wait_ready_async(target))


@pytest.mark.parametrize("target", ["", "http://", "/reviews"])
def test_a_target_without_a_host_is_refused(shop: Path, target: str) -> None:
    with meshsdk.Mesh(config=shop) as mesh, pytest.raises(ValueError, match="a host, host:port or URL is needed"):
        mesh.wait_ready(target)


@pytest.mark.parametrize("argument", ["profile", "unknown_hosts", "local_replies"])
def test_a_choice_that_there_is_not_is_refused(argument: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be one of .*, is 'nonsense'"):
        meshsdk.Mesh(config=tmp_path, **{argument: "nonsense"})  # type: ignore[arg-type]
