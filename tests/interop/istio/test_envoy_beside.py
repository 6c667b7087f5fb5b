"""A real Envoy with what istiod sends a sidecar is the peer: mutual TLS both ways, in PERMISSIVE and in STRICT.

What stands between the two is taken away: istiod's own filters, which are in Istio's build of Envoy only; redirection
by iptables, so that its inbound listener listens on the port itself; and the agent that hands out secrets, which are
static.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format

import meshsdk
from tests.certificates import SpiffeCa, spiffe
from tests.patience import PATIENCE
from tests.processes import envoy, free_ports
from tests.server.running import answers, identity, peer_authentication, policy, serving
from tests.servers import EchoServer

from . import istiod
from .case import Case, Client, Server
from .test_live import MUTUAL, ONLY_FRIENDS, Istiod, in_default, program, real, service
from .view import to_message

__all__ = ["program", "real"]

pytestmark = pytest.mark.interop

MARKED = ", security.istio.io/tlsMode: istio"


def of_sidecar(program: Path, folder: Path, yaml: str) -> tuple[istiod.NodeResources, istiod.NodeResources]:
    """What istiod sends the sidecars of a client, and of a server `a`."""
    folder.mkdir()
    (folder / "mesh.yaml").write_text(yaml)
    labels = {"app": "a", "security.istio.io/tlsMode": "istio"}
    case = Case("envoy", yaml, clients=(Client(),), servers=(Server("127.0.0.1", 80, labels=labels),))
    [answer] = istiod.ask(program, [(case, folder)])
    return answer.clients[0][1], answer.servers[0][1]


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """A resource without what is Istio's own, as Envoy's configuration has it."""
    found: dict[str, Any] = json_format.MessageToDict(to_message(document), preserving_proto_field_name=True)
    return _of_static_secrets(found)


def _of_static_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _of_static_secrets(one) for name, one in value.items() if name != "sds_config"}
    return [_of_static_secrets(one) for one in value] if isinstance(value, list) else value


def bootstrap(place: Path, listener: dict[str, Any], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    chain = {"filename": str(place / "cert.pem")}
    own = {"certificate_chain": chain, "private_key": {"filename": str(place / "key.pem")}}
    roots = {"trusted_ca": {"filename": str(place / "roots.pem")}}
    secrets = [{"name": "default", "tls_certificate": own}, {"name": "ROOTCA", "validation_context": roots}]
    return {
        "node": {"id": "sidecar", "cluster": "default"},
        "static_resources": {"listeners": [listener], "clusters": clusters, "secrets": secrets},
    }


def inbound(resources: istiod.NodeResources, place: Path, port: int, application: int) -> dict[str, Any]:
    """An Envoy in front of an application, on the port that istiod knows it by."""
    [listener] = [plain(one) for one in resources.listeners if one["name"] == "virtualInbound"]
    listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener.pop("use_original_dst", None)
    listener["listener_filters"] = [one for one in listener["listener_filters"] if "original_dst" not in one["name"]]
    name = f"inbound|{port}||"
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": application}}}}
    cluster = {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}
    others = [{"name": one, "type": "STATIC"} for one in ("BlackHoleCluster", "InboundPassthroughCluster")]
    return bootstrap(place, listener, [cluster, *others])


def outbound(resources: istiod.NodeResources, place: Path, port: int) -> dict[str, Any]:
    """An Envoy that a client beside it calls `a` through."""
    name = "outbound|80||a.default.svc.cluster.local"
    [cluster] = [plain(one) for one in resources.clusters if one["name"] == name]
    [assignment] = [plain(one) for one in resources.endpoints if one["cluster_name"] == name]
    del cluster["eds_cluster_config"]
    cluster |= {"type": "STATIC", "load_assignment": assignment}
    [routes] = [plain(one) for one in resources.routes if one["name"] == "80"]
    routes["virtual_hosts"] = [one for one in routes["virtual_hosts"] if one["name"].startswith("a.")]
    for virtual_host in routes["virtual_hosts"]:
        virtual_host["domains"] = ["*"]
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "route_config": routes,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "out",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    return bootstrap(place, listener, [cluster])


def place_of(folder: Path, ca: SpiffeCa, account: str) -> Path:
    own = folder / f"envoy-{account}"
    own.mkdir()
    identity(own, ca, account)
    [place] = own.glob(f"{account}-*")
    return place


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
@pytest.mark.parametrize("rule", ["auto", "ISTIO_MUTUAL"])
def test_clients_speak_mutual_tls_to_an_envoy_of_istiod(
    real: Istiod, program: Path, tmp_path: Path, stack: ExitStack, mode: str, rule: str
) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    application = stack.enter_context(EchoServer("a"))
    yaml = service("a", {port: "z1"}, labels=MARKED) + in_default(peer_authentication(mode))
    yaml += in_default(policy(ONLY_FRIENDS)) + (MUTUAL if rule == "ISTIO_MUTUAL" else "")
    _, server = of_sidecar(program, tmp_path / "asked", yaml)
    config = inbound(server, place_of(tmp_path, ca, "a"), port, application.port)
    stack.enter_context(envoy(json.loads(json.dumps(config)), [port], tmp_path))
    real.serve(yaml)
    for account, status in (("friend", 200), ("stranger", 403)):
        who = identity(tmp_path, ca, account)
        with meshsdk.Mesh(bootstrap=real.bootstrap(), identity=who) as mesh, mesh.client(timeout=PATIENCE) as client:
            answer = client.get("http://a/")
            assert answer.status_code == status, answer.text
            if status == 200:
                # Envoy says who it has seen.
                assert spiffe("friend") in answer.json()["headers"]["x-forwarded-client-cert"]
    if mode == "STRICT":
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/", headers={"host": "a"})
    else:
        assert httpx.get(f"http://127.0.0.1:{port}/", headers={"host": "a"}).status_code == 403


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
def test_an_envoy_of_istiod_speaks_mutual_tls_to_our_servers(
    real: Istiod, program: Path, tmp_path: Path, stack: ExitStack, mode: str
) -> None:
    ca, [port, door] = SpiffeCa(), free_ports(2)
    yaml = service("a", {port: "z1"}, labels=MARKED) + in_default(peer_authentication(mode))
    yaml += in_default(policy(ONLY_FRIENDS))
    client, _ = of_sidecar(program, tmp_path / "asked", yaml)
    real.serve(yaml)
    labels = {"app": "a", "security.istio.io/tlsMode": "istio"}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(labels), identity=identity(tmp_path, ca, "a")))
    stack.enter_context(serving(answers, mesh, port))
    for account, status in (("friend", 200), ("stranger", 403)):
        config = outbound(client, place_of(tmp_path, ca, account), door)
        with envoy(config, [door], tmp_path):
            assert httpx.get(f"http://127.0.0.1:{door}/", timeout=PATIENCE).status_code == status
