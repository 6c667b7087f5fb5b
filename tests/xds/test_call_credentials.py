"""Service account tokens on the way to a management server (gRFC A97): shown over TLS, read anew, and refused aloud."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk
from meshsdk.bootstrap import ChannelCredentials, XdsServer
from meshsdk.node import Node
from meshsdk.xds.refusal import what_to_do
from tests.conftest import service
from tests.istiod import Istiod, write_token
from tests.patience import PATIENCE

NODE = {"id": "sidecar~10.0.0.1~web-0.default~default.svc.cluster.local", "metadata": {"NAMESPACE": "default"}}


@pytest.fixture
def istiod(tmp_path: Path) -> Iterator[Istiod]:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "mesh.yaml").write_text(service("reviews", 1))
    with Istiod(tmp_path / "mesh") as running:
        (tmp_path / "roots.pem").write_bytes(running.roots)
        yield running


def bootstrap(istiod: Istiod, folder: Path, *call_creds: dict[str, Any]) -> dict[str, Any]:
    tls = {"type": "tls", "config": {"ca_certificate_file": str(folder / "roots.pem")}}
    server = {"server_uri": istiod.address, "channel_creds": [tls], "call_creds": list(call_creds)}
    return {"xds_servers": [server], "node": NODE}


def token_file(path: Path) -> dict[str, Any]:
    return {"type": "jwt_token_file", "config": {"jwt_token_file": str(path)}}


def problem_of(mesh: meshsdk.Mesh) -> str:
    with pytest.raises(TimeoutError):
        mesh.wait_ready("reviews", 0.01)
    deadline = time.monotonic() + PATIENCE
    while not (problem := mesh.status()["problem"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return problem


def test_the_token_of_the_file_is_shown(istiod: Istiod, tmp_path: Path) -> None:
    token = write_token(tmp_path / "token")
    with meshsdk.Mesh(bootstrap=bootstrap(istiod, tmp_path, token_file(token))) as mesh:
        mesh.wait_ready("reviews")
    assert set(istiod.callers) == {"default/web"}


def test_types_that_are_not_known_are_left_out_and_told_of(
    istiod: Istiod, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call_creds = [{"type": "unheard_of", "config": 5}, token_file(write_token(tmp_path / "token"))]
    with meshsdk.Mesh(bootstrap=bootstrap(istiod, tmp_path, *call_creds)) as mesh:
        mesh.wait_ready("reviews")
        (note,) = mesh.status()["notes"]
    assert "xds_servers[0].call_creds: 'unheard_of'" in note
    assert note in caplog.messages


def test_without_a_token_the_problem_says_what_to_add(
    istiod: Istiod, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with meshsdk.Mesh(bootstrap=bootstrap(istiod, tmp_path)) as mesh:
        told, until = "", time.monotonic() + PATIENCE
        while "jwt_token_file" not in told and time.monotonic() < until:
            with pytest.raises(TimeoutError) as waited:
                mesh.wait_ready("reviews", 0.1)
            told = str(waited.value)
        assert "jwt_token_file" in told
        problem = mesh.status()["problem"]
    assert "UNAUTHENTICATED: authentication failure" in problem
    assert '"call_creds": [{"type": "jwt_token_file"' in problem
    told = [record for record in caplog.records if "UNAUTHENTICATED" in record.getMessage()]
    assert told[0].levelno == logging.WARNING
    assert sum(record.levelno == logging.WARNING for record in told) == 1


WRONG_TOKENS = {
    "expired": ({"seconds": -60}, "good until"),
    "of another audience": ({"audience": "https://kubernetes.default.svc"}, "for https://kubernetes.default.svc"),
}


@pytest.mark.parametrize("wrong", WRONG_TOKENS)
def test_a_token_that_is_refused_is_told_of_and_taken_from_the_file_when_it_is_good(
    istiod: Istiod, tmp_path: Path, wrong: str
) -> None:
    options, said = WRONG_TOKENS[wrong]
    token = write_token(tmp_path / "token", **options)
    text = token.read_text()
    with meshsdk.Mesh(bootstrap=bootstrap(istiod, tmp_path, token_file(token))) as mesh:
        problem = problem_of(mesh)
        assert f"the token in {token} (of default/web, " in problem
        assert said in problem
        assert "audience istio-ca" in problem
        assert text.split(".")[1] not in problem, "a token is a secret"
        write_token(token)
        mesh.wait_ready("reviews", PATIENCE)
        assert mesh.status()["problem"] == ""


@pytest.mark.parametrize("content", [None, b"", b"not a token", b"a.e30.c", b"a.bm8.c\xff"])
def test_a_token_that_cannot_be_read_is_told_of_by_its_file(
    istiod: Istiod, tmp_path: Path, content: bytes | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with meshsdk.Mesh(bootstrap=bootstrap(istiod, tmp_path, token_file(token))) as mesh:
        assert str(token) in problem_of(mesh)
        write_token(token)
        mesh.wait_ready("reviews", PATIENCE)
    assert set(istiod.callers) == {"default/web"}, "nothing else was shown"


def test_a_node_that_is_not_the_tokens_is_told_of(tmp_path: Path) -> None:
    """istiod compares them with each stream's first request (pilot/pkg/xds/auth.go), and answers PERMISSION_DENIED."""
    token = write_token(tmp_path / "token", "shop", "web")
    server = XdsServer("istiod:15012", ChannelCredentials("tls"), token_files=(str(token),))
    node = Node(metadata={"NAMESPACE": "default", "SERVICE_ACCOUNT": "other"})
    advice = what_to_do(grpc.StatusCode.PERMISSION_DENIED, server, node)
    assert "'default' and 'other'" in advice
    assert f"{token} (of shop/web, " in advice
    assert what_to_do(grpc.StatusCode.UNAVAILABLE, server, node) == ""


def test_a_client_certificate_that_is_refused_is_named() -> None:
    credentials = ChannelCredentials("tls", certificate_file="/cert.pem", private_key_file="/key.pem")
    assert "/cert.pem" in what_to_do(grpc.StatusCode.UNAUTHENTICATED, XdsServer("istiod:15012", credentials), Node())
