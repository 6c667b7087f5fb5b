"""`meshsdk.testing.ControlPlane`: what is applied, what clients answer, outages, and that nothing is left."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2

import meshsdk
from meshsdk.testing import Ack, ControlPlane, MeshService, Nack
from tests.patience import PATIENCE

BOTH = pytest.mark.parametrize("xds_variant", ["sotw", "incremental"])
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
NAME = "outbound|80||reviews.default.svc.cluster.local"


def says(text: str) -> Any:
    """A WSGI application."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-length", str(len(text)))])
        return [text.encode()]

    return app


def virtual_service(http: Any, name: str = "reviews") -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {"hosts": [name], "http": http},
    }


def answers(text: str) -> dict[str, Any]:
    """A rule of the mesh that answers by itself."""
    return virtual_service([{"directResponse": {"status": 299, "body": {"string": text}}}])


@pytest.fixture
def get(mesh: meshsdk.Mesh, mesh_service: Any) -> Iterator[Any]:
    """Asks the service `reviews`."""
    mesh_service("reviews", says("reviews"))
    with mesh.client() as client:
        yield lambda url="http://reviews/": client.get(url).text


@BOTH
def test_a_change_is_in_effect_when_apply_returns(control_plane: ControlPlane, get: Any, xds_variant: str) -> None:
    assert get() == "reviews"
    for number in range(20):
        control_plane.apply(answers(str(number)))
        assert get() == str(number)
    control_plane.delete("VirtualService", "reviews")
    assert get() == "reviews"
    assert control_plane.nacks == []


def test_objects_are_taken_as_text_data_lists_files_and_folders(
    control_plane: ControlPlane, get: Any, tmp_path: Path
) -> None:
    text = """
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: reviews}
        spec:
          hosts: [reviews]
          http: [{directResponse: {status: 299, body: {string: text}}}]
    """
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file.yaml").write_text(text.replace("string: text", "string: file"))
    for given, expected in [
        (text, "text"),
        (answers("data"), "data"),
        ([answers("several")], "several"),
        ({"apiVersion": "v1", "kind": "List", "items": [answers("list")]}, "list"),
        (tmp_path / "one" / "file.yaml", "file"),
        (tmp_path, "file"),
    ]:
        control_plane.apply(given)
        assert get() == expected
        control_plane.delete(given)
        assert get() == "reviews"


def test_what_is_wrong_raises_with_field_and_line_and_nothing_is_applied(
    control_plane: ControlPlane, get: Any, tmp_path: Path
) -> None:
    control_plane.apply(answers("before"))
    good = "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{port: 80}]}\n"
    bad = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n"
        "spec:\n  hosts: [reviews]\n  http:\n  - route: [{destination: {host: reviews}}]\n    timeout: soon\n"
    )
    with pytest.raises(meshsdk.ConfigError, match=r"not applied: VirtualService/reviews.*timeout.*\(line 13\)$"):
        control_plane.apply(f"{good}---\n{bad}")
    (tmp_path / "mesh.yaml").write_text(bad)
    with pytest.raises(meshsdk.ConfigError, match=rf"{tmp_path}/mesh.yaml VirtualService/reviews.*\(line 8\)$"):
        control_plane.apply(tmp_path)
    assert get() == "before"
    with pytest.raises(LookupError, match="there is no Service default/other"):
        control_plane.delete("Service", "other")
    with pytest.raises(meshsdk.ConfigError, match="is not YAML"):
        control_plane.apply("a: [")
    control_plane.apply(answers("after"))
    assert get() == "after"


def test_namespaces_are_those_that_are_named(control_plane: ControlPlane, mesh_as: Any, mesh_service: Any) -> None:
    mesh_service("reviews", says("of shop"), namespace="shop")
    control_plane.apply(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n"
        "spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}], headers: {response: "
        "{set: {x-rule: shop}}}}]}\n",
        namespace="shop",
    )
    with mesh_as("web", namespace="shop").client() as inside, mesh_as("web").client() as outside:
        answer = inside.get("http://reviews/")
        assert (answer.text, answer.headers["x-rule"]) == ("of shop", "shop")
        assert outside.get("http://reviews.shop/").text == "of shop"
        with pytest.raises(meshsdk.NoRouteError):
            outside.get("http://reviews/")
    control_plane.delete("VirtualService", "reviews", namespace="shop")


@BOTH
@pytest.mark.parametrize("as_message", [True, False])
def test_a_bad_resource_is_refused_and_listed_with_the_clients_reason(
    control_plane: ControlPlane, get: Any, as_message: bool, xds_variant: str
) -> None:
    assert get() == "reviews"
    assert Ack("sidecar~127.0.0.1~test.default~default.svc.cluster.local", "Cluster", (NAME,)) in control_plane.acks
    control_plane.forget_answers()
    bad: Any = {"@type": CLUSTER, "name": NAME, "type": "EDS", "lb_policy": "RING_HASH"}
    bad["ring_hash_lb_config"] = {"minimum_ring_size": 9_000_000}
    if as_message:
        bad = cluster_pb2.Cluster(name=NAME, type=cluster_pb2.Cluster.EDS, lb_policy=cluster_pb2.Cluster.RING_HASH)
        bad.ring_hash_lb_config.minimum_ring_size.value = 9_000_000
    control_plane.set(bad)
    [nack] = control_plane.nacks
    assert isinstance(nack, Nack)
    assert (nack.type, nack.names) == ("Cluster", (NAME,))
    assert "minimum_ring_size" in nack.error
    assert get() == "reviews"
    control_plane.unset(bad)
    assert control_plane.acks[-1].names == (NAME,)


def test_what_is_no_resource_raises(control_plane: ControlPlane) -> None:
    with pytest.raises(meshsdk.ConfigError, match="did you mean"):
        control_plane.set({"@type": CLUSTER + "s", "name": "x"})
    with pytest.raises(meshsdk.ConfigError, match="must be set"):
        control_plane.set(cluster_pb2.Cluster())
    with pytest.raises(meshsdk.ConfigError, match="no field named"):
        control_plane.set({"@type": CLUSTER, "name": "x", "typ": "EDS"})


@BOTH
def test_an_outage_and_what_was_applied_meanwhile(control_plane: ControlPlane, get: Any, xds_variant: str) -> None:
    assert get() == "reviews"
    control_plane.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{control_plane.address}/", trust_env=False)
    control_plane.apply(answers("meanwhile"))
    assert get() == "reviews"
    control_plane.start()
    assert get() == "meanwhile"
    assert len(control_plane.clients) == 2


def test_clients_and_what_they_ask_for_are_told(control_plane: ControlPlane, get: Any) -> None:
    get()
    client = "sidecar~127.0.0.1~test.default~default.svc.cluster.local"
    assert client in control_plane.clients
    asked = control_plane.subscriptions(client)
    assert asked["Cluster"] == {NAME}
    assert asked["ClusterLoadAssignment"] == {NAME}
    assert asked["RouteConfiguration"] == {NAME}


def test_a_client_that_does_not_answer_is_named(control_plane: ControlPlane, get: Any) -> None:
    get()
    control_plane.wait_seconds = 0.3
    [mesh] = [one for one in control_plane._meshes if "test.default" in one._runtime.bootstrap.node.id]
    held = threading.Event()
    mesh._runtime.post(lambda: held.wait(PATIENCE))
    try:
        with pytest.raises(TimeoutError, match=r"test\.default.* has not answered to RouteConfiguration"):
            control_plane.apply(answers("late"))
    finally:
        held.set()


def test_a_mesh_that_was_closed_is_not_waited_for(control_plane: ControlPlane, get: Any, mesh_as: Any) -> None:
    with mesh_as("web") as web, web.client() as client:
        assert client.get("http://reviews/").text == "reviews"
    control_plane.apply(answers("after"))
    assert get() == "after"


def test_instances_go_and_come_back(control_plane: ControlPlane, mesh: meshsdk.Mesh, mesh_service: Any) -> None:
    one: MeshService = mesh_service("reviews", says("one"))
    two: MeshService = mesh_service("reviews", says("two"))
    with mesh.client() as client:

        def seen() -> set[str]:
            return {client.get(one.url).text for _ in range(10)}

        assert seen() == {"one", "two"}
        two.remove()
        assert seen() == {"one"}
        one.stop()
        with pytest.raises(httpx.ConnectError, match="refused"):
            client.get(one.url)
        one.start()
        assert seen() == {"one"}
    assert one.mesh.explain("GET", "http://reviews/").clusters[0].endpoints[0].address == f"127.0.0.1:{one.own_port}"


def test_a_service_of_the_teams_own_manifest_stays_as_it_is(
    control_plane: ControlPlane, mesh: meshsdk.Mesh, mesh_service: Any
) -> None:
    control_plane.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\n"
        "spec: {selector: {tier: web, product: shop}, ports: [{name: http-api, port: 9080, targetPort: 1234}]}\n"
    )
    mesh_service("reviews", says("ours"), port=9080)
    with mesh.client() as client:
        assert client.get("http://reviews:9080/").text == "ours"
    with pytest.raises(meshsdk.ConfigError, match=r"has no port 80 \(has \[9080\]\)"):
        mesh_service("reviews", says("ours"), port=80)


def test_an_application_that_does_not_start_says_so(mesh_service: Any) -> None:
    class Broken:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(meshsdk.MeshError, match="the service reviews does not run"):
        mesh_service("reviews", Broken())


def test_a_policy_of_the_whole_mesh_holds_for_services(control_plane: ControlPlane, get: Any) -> None:
    assert get() == "reviews"
    control_plane.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: nobody, namespace: istio-system}\nspec: {}\n"
    )
    assert get() == "RBAC: access denied"


def test_warnings_say_what_has_no_effect(control_plane: ControlPlane) -> None:
    control_plane.apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: reviews}\nspec: {}\n")
    assert any("Deployment" in text for text in control_plane.warnings)


def test_nothing_is_left(tmp_path: Path) -> None:
    def once() -> None:
        with ControlPlane() as control_plane:
            service = control_plane.service("reviews", says("reviews"), mtls="STRICT")
            with control_plane.mesh("web").client() as client:
                assert client.get("http://reviews/").text == "reviews"
            control_plane.stop()
            ports.append(service.own_port)

    ports: list[int] = []
    once()  # What is made once in a process.
    gc.collect()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        once()
    deadline = time.monotonic() + PATIENCE
    while threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > files:
        assert time.monotonic() < deadline, (threading.enumerate(), os.listdir("/proc/self/fd"))
        gc.collect()
        time.sleep(0.05)
    for port in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
