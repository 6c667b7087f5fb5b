"""TLS and HTTP/2 against a real Envoy, sync and async."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

import meshsdk
from tests.conftest import destination_rule, service
from tests.loops import LOOPS, make_loop
from tests.processes import envoy, free_ports, http_listener
from tests.servers import EchoServer

from ..patience import eventually


@dataclass
class Backend:
    """An Envoy in front of an echo server: one port with TLS, one without; both speak HTTP/1.1 and HTTP/2."""

    tls_port: int
    plain_port: int
    ca_file: Path
    ca: trustme.CA
    echo: EchoServer


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("envoy")
    ca = trustme.CA()
    certificate = ca.issue_cert("a.example", "*.wild.example")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    with ExitStack() as stack:
        echo = stack.enter_context(EchoServer("echo"))
        ports = free_ports(2)
        route = {"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "0s"}}
        secure, plain = (http_listener(port, [route]) for port in ports)
        pem = {
            "certificate_chain": {"inline_string": b"".join(c.bytes() for c in certificate.cert_chain_pems).decode()},
            "private_key": {"inline_string": certificate.private_key_pem.bytes().decode()},
        }
        secure["filter_chains"][0]["transport_socket"] = {  # type: ignore[index]
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [pem]},
            },
        }
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": echo.port}}}}
        cluster = {
            "name": "echo",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        config: dict[str, object] = {"static_resources": {"listeners": [secure, plain], "clusters": [cluster]}}
        stack.enter_context(envoy(config, ports, folder))
        yield Backend(ports[0], ports[1], folder / "ca.pem", ca, echo)


Call = Callable[..., httpx.Response]


@pytest.fixture(params=["sync", *LOOPS])
def send(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> Call:
    """Sends one request by a mesh over the given YAML."""

    def call(
        yaml: str, method: str = "GET", url: str = "http://a/", content: Any = None, **options: Any
    ) -> httpx.Response:
        folder = tmp_path / "mesh"
        folder.mkdir(exist_ok=True)
        (folder / "m.yaml").write_text(yaml)
        mesh = stack.enter_context(meshsdk.Mesh(config=folder))
        if request.param == "sync":
            with mesh.client(**options) as client:
                return client.request(method, url, content=content)

        async def run() -> httpx.Response:
            async with mesh.async_client(**options) as client:
                responses = await asyncio.gather(*(client.request(method, url, content=content) for _ in range(5)))
                assert len({response.status_code for response in responses}) == 1
                return responses[0]

        with asyncio.Runner(loop_factory=make_loop(request.param)) as runner:
            return runner.run(run())

    return call


def secured(backend: Backend, *, names: str = "a.example", ca: Path | None = None, http2: bool = False) -> str:
    upgrade = ", connectionPool: {http: {h2UpgradePolicy: UPGRADE}}" if http2 else ""
    tls = f"tls: {{mode: SIMPLE, sni: a.example, caCertificates: {ca or backend.ca_file}, subjectAltNames: [{names}]}}"
    return service("a", backend.tls_port) + destination_rule("a", f"trafficPolicy: {{{tls}{upgrade}}}")


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_a_large_body_goes_there_and_back_over_tls(send: Call, backend: Backend, http2: bool, version: str) -> None:
    body = b"x" * 3_000_000
    response = send(secured(backend, http2=http2), "POST", content=body)
    assert response.http_version == version
    assert response.json()["body"] == body.decode()


def test_http2_in_plaintext_by_prior_knowledge(send: Call, backend: Backend) -> None:
    yaml = service("a", backend.plain_port).replace("name: http", "name: http2").replace("{http:", "{http2:")
    response = send(yaml, "POST", content=b"x" * 200_000)
    assert response.http_version == "HTTP/2"
    assert len(response.json()["body"]) == 200_000


def test_a_head_request_over_http2(send: Call, backend: Backend) -> None:
    response = send(secured(backend, http2=True), "HEAD")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("names", ["a.example", "x.wild.example"])
def test_a_name_of_the_certificate_is_accepted(send: Call, backend: Backend, names: str) -> None:
    assert send(secured(backend, names=names)).status_code == 200


@pytest.mark.parametrize("names", ["other.example", "a.b.wild.example", "spiffe://x/y"])
def test_a_peer_with_another_name_is_refused_and_both_names_are_said(send: Call, backend: Backend, names: str) -> None:
    with pytest.raises(meshsdk.PeerIdentityError, match=r"a\.example") as caught:
        send(secured(backend, names=f'"{names}"'))
    assert names in str(caught.value)
    assert isinstance(caught.value, httpx.ConnectError)


def test_a_peer_of_another_ca_is_refused(send: Call, backend: Backend, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        send(secured(backend, ca=tmp_path / "other.pem"))


def test_a_plaintext_peer_is_refused_where_tls_is_asked_for(send: Call, backend: Backend) -> None:
    yaml = secured(backend).replace(str(backend.tls_port), str(backend.plain_port))
    seen = len(backend.echo.seen)
    with pytest.raises(httpx.ConnectError):
        send(yaml)
    assert len(backend.echo.seen) == seen


def test_a_missing_ca_file_is_a_clear_error(send: Call, backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(httpx.ConnectError, match=r"nowhere\.pem"):
        send(secured(backend, ca=tmp_path / "nowhere.pem"))


def test_an_https_url_is_never_sent_in_plaintext(send: Call, backend: Backend) -> None:
    yaml = service("a", backend.plain_port, port=443)
    seen = len(backend.echo.seen)
    with pytest.raises(httpx.ConnectError):
        send(yaml, url="https://a/")
    assert len(backend.echo.seen) == seen


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_https_hosts_outside_the_mesh_are_verified_by_the_clients_own_context(
    send: Call, backend: Backend, http2: bool, version: str
) -> None:
    context = ssl.create_default_context()
    backend.ca.configure_trust(context)
    context.check_hostname = False
    url = f"https://127.0.0.1:{backend.tls_port}/"
    assert send(service("a", 1), url=url, verify=context, http2=http2).http_version == version
    with pytest.raises(httpx.ConnectError):
        send(service("a", 1), url=url)


@pytest.fixture(params=["sync", *LOOPS])
def kept_client(request: pytest.FixtureRequest, looks_often: None) -> Any:
    """Opens a client of a mesh, whose connections are kept from one request to the next."""
    runner = asyncio.Runner(loop_factory=make_loop(request.param)) if request.param != "sync" else None
    opened: list[Any] = []

    def open_client(mesh: meshsdk.Mesh) -> Callable[[], httpx.Response]:
        if runner is None:
            client = mesh.client()
            opened.append(client.close)
            return lambda: client.get("http://a/")
        asynchronous = mesh.async_client()
        opened.append(lambda: runner.run(asynchronous.aclose()))
        return lambda: runner.run(asynchronous.get("http://a/"))

    yield open_client
    for close in opened:
        close()
    if runner is not None:
        runner.close()


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_broken_file_of_roots_leaves_the_last_good_ones_in_use_and_new_ones_are_taken_up(
    kept_client: Any, http2: bool, backend: Backend, tmp_path: Path, stack: ExitStack
) -> None:
    roots = tmp_path / "ca.pem"
    backend.ca.cert_pem.write_to_path(roots)
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "m.yaml").write_text(secured(backend, ca=roots, http2=http2))
    mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh"))
    get = kept_client(mesh)
    assert get().status_code == 200
    roots.write_bytes(b"half a certif")
    [transport] = mesh._runtime._rotation._holders
    eventually(lambda: any(kept.problem for kept in transport._tls._contexts.values()))
    assert get().status_code == 200
    roots.unlink()
    assert get().status_code == 200
    trustme.CA().cert_pem.write_to_path(roots)
    eventually(lambda: refuses(get))
    backend.ca.cert_pem.write_to_path(roots)
    eventually(lambda: not refuses(get))


def refuses(get: Callable[[], httpx.Response]) -> bool:
    try:
        return get().status_code != 200
    except httpx.TransportError:
        return True


def test_new_roots_of_the_system_are_taken_up(
    kept_client: Any, backend: Backend, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "system.pem"
    backend.ca.cert_pem.write_to_path(roots)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    (tmp_path / "mesh").mkdir()
    yaml = secured(backend).replace(f"caCertificates: {backend.ca_file}, ", "")
    (tmp_path / "mesh" / "m.yaml").write_text(yaml)
    get = kept_client(stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh")))
    assert get().status_code == 200
    trustme.CA().cert_pem.write_to_path(roots)
    eventually(lambda: refuses(get))
    backend.ca.cert_pem.write_to_path(roots)
    eventually(lambda: not refuses(get))
