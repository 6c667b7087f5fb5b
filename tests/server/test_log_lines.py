"""Names from outside begin no line of the log and forge no field of one."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

import meshsdk
from meshsdk.errors import ConfigError, MeshError, NoRouteError, PeerIdentityError, RequestError, ResourceError
from meshsdk.log_lines import logger_of

from ..certificates import SpiffeCa, spiffe, write_identity
from ..conftest import service
from .grpc_servers import sync_grpc_server
from .running import Loop, identity, mesh_of, one_port, peer_authentication, policy, serving
from .test_attacks import echo
from .test_untold import listener
from .test_virtual_inbound import secured

# What ends a line somewhere, moves a cursor, turns the direction of writing, or is no character at all.
NASTY = "\nERROR|forged\r\x1b[2K\x85\u2028\u202e\u2066\t\x00"
FORMAT = "LINE|%(levelname)s|%(name)s|%(message)s"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What an ordinary handler writes."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger("meshsdk")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


def lines(log: io.StringIO) -> list[str]:
    """The log's lines, none of which anybody else has begun."""
    text = log.getvalue()
    found = text.split("\n")[:-1]
    assert all(line.startswith("LINE|") and line.isprintable() for line in found), text
    return found


@pytest.mark.parametrize("way", ["text", "error", "repr", "mapping", "message"])
def test_what_a_logger_is_told_is_one_line(log: io.StringIO, way: str) -> None:
    logger = logger_of("meshsdk.tried")
    match way:
        case "text":
            logger.warning("%s of %d", f"a{NASTY}", 7)
        case "error":
            logger.warning("%s of %d", ValueError(f"a{NASTY}"), 7)
        case "repr":
            logger.warning("%r of %d", f"a{NASTY}", 7)
        case "mapping":
            logger.warning("%(name)s of %(number)d", {"name": f"a{NASTY}", "number": 7})
        case "message":
            logger.warning(f"a{NASTY} of 7")
    [line] = lines(log)
    assert line.startswith("LINE|WARNING|meshsdk.tried|")
    assert "\\nERROR|forged" in line
    assert line.endswith(" of 7")


def test_a_traceback_tells_messages_in_one_line_each(log: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"inner{NASTY}")
        except ValueError as error:
            raise RuntimeError(f"outer{NASTY}") from error
    except RuntimeError:
        logger_of("meshsdk.tried").exception("failed")
    text = log.getvalue()
    assert not [line for line in text.split("\n") if line.startswith(("ERROR", "forged"))]
    assert text.replace("\n", "").isprintable()
    assert "ValueError: inner\\nERROR|forged" in text
    assert "RuntimeError: outer\\nERROR|forged" in text
    assert "test_log_lines.py" in text


@pytest.mark.parametrize(
    "error",
    [
        MeshError(f"a{NASTY}"),
        NoRouteError(f"a{NASTY}"),
        PeerIdentityError(f"a{NASTY}"),
        RequestError(f"a{NASTY}", status=503),
        ResourceError(f"field{NASTY}", f"a{NASTY}", resource=f"name{NASTY}"),
        ConfigError(f"file{NASTY}", f"a{NASTY}"),
    ],
)
def test_what_an_error_says_is_one_line_wherever_an_application_writes_it(error: MeshError) -> None:
    assert str(error).isprintable()
    assert "\\nERROR|forged" in str(error)


@pytest.mark.parametrize("where", ["path", "method", "host", "header"])
def test_a_denied_request_is_one_line(tmp_path: Path, log: io.StringIO, where: str) -> None:
    port = one_port()
    yaml = service("web", port) + policy("{action: DENY, rules: [{}]}")
    raw = NASTY.encode().replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"")
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
        headers = {"host": b"a" + raw if where == "host" else b"a", "user-agent": raw if where == "header" else b"x"}
        path = f"/%0AERROR%7Cforged{'%E2%80%AE' if where == 'path' else ''}"
        with contextlib.suppress(httpx.TransportError):
            httpx.request("G%0A" if where == "method" else "GET", f"http://127.0.0.1:{port}{path}", headers=headers)
    lines(log)


def test_the_names_of_a_certificate_begin_no_line(tmp_path: Path, log: io.StringIO) -> None:
    port, ca = one_port(), SpiffeCa()
    document = json.loads(listener(port, []).replace("/0.0.0.0:", "/127.0.0.1:"))
    document["filter_chains"] = [secured(document["filter_chains"][0], ["http/1.1"])]
    forged = "spiffe://evil/a\nERROR|meshsdk.audit|denied: peer='friend'\r\x1b[2K\x00"
    folder = tmp_path / "stranger"
    write_identity(folder, ca.issue(forged), ca.pem)
    with (
        mesh_of(tmp_path, json.dumps(document), identity(tmp_path, ca, "server")) as mesh,
        serving(echo, mesh, port, loop=Loop.name),
    ):
        context = ssl.create_default_context(cadata=ca.pem.decode())
        context.check_hostname = False
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"https://127.0.0.1:{port}/", verify=context)
    assert any("a peer is refused" in line and "evil" in line for line in lines(log))


def test_a_servers_names_begin_no_line_of_its_client(tmp_path: Path, log: io.StringIO) -> None:
    port, ca = one_port(), SpiffeCa()
    server = identity(tmp_path, ca, "server", uri="spiffe://evil/a\nERROR|forged\x1b[2K")
    rule = (
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web}\n"
        f"spec: {{host: web, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{spiffe('web')}']}}}}}}\n"
    )
    with (
        mesh_of(tmp_path, service("web", port) + peer_authentication("STRICT"), server, "serving") as serving_mesh,
        serving(echo, serving_mesh, port),
        mesh_of(tmp_path, service("web", port) + rule, identity(tmp_path, ca, "caller"), "calling") as mesh,
        mesh.client() as client,
        pytest.raises(httpx.TransportError) as caught,
    ):
        client.get("http://web/")
    assert str(caught.value).isprintable()
    logging.getLogger("meshsdk.application").error("%s", caught.value)
    assert any("evil" in line for line in lines(log))


def test_the_name_of_a_file_begins_no_line(tmp_path: Path, log: io.StringIO) -> None:
    place = tmp_path / "mesh"
    place.mkdir()
    (place / "good.yaml").write_text(service("web", 1))
    (place / "a\nERROR|forged\x1b[2K.yaml").write_text("kind: [")
    with contextlib.suppress(MeshError), meshsdk.Mesh(config=place) as mesh:
        mesh.wait_ready("web", timeout=20)
    assert any("forged" in line for line in lines(log))


def test_the_metadata_of_a_call_begin_no_line(tmp_path: Path, log: io.StringIO) -> None:
    port = one_port()
    yaml = service("web", port) + policy("{action: DENY, rules: [{}]}")
    with (
        mesh_of(tmp_path, yaml) as mesh,
        sync_grpc_server(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.default_authority", "a\u202eb")]) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary("/test.Echo/Say\u2028ERROR")(b"", timeout=20)
    lines(log)
