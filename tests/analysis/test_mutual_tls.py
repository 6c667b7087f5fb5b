"""That client and server do not agree on mutual TLS is found where a request really fails, and nowhere else."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from meshsdk.analysis import Finding, analyze
from tests.certificates import SpiffeCa
from tests.conftest import destination_rule, service
from tests.server.running import identity, mesh_of, one_port, peer_authentication, serving

LABEL = "security.istio.io/tlsMode: istio"
CODES = ("strict-plaintext", "mutual-plaintext")


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa()


application = FastAPI()


@application.get("/")
def answer() -> str:
    return "here"


def combinations() -> list[tuple[str, str, str]]:
    """Mode of the server, of the client's DestinationRule, and what the WorkloadEntry says."""
    return [*product(("STRICT", "PERMISSIVE", "DISABLE"), ("", "DISABLE", "ISTIO_MUTUAL"), ("", "label", "account"))]


def configuration(port: int, mode: str, tls: str, says: str) -> str:
    rule = destination_rule("web", f"trafficPolicy: {{tls: {{mode: {tls}}}}}") if tls else ""
    said = {"": "labels: {app: web}", "label": f"labels: {{app: web, {LABEL}}}"}
    said["account"] = "serviceAccount: web, labels: {app: web}"
    entry = service("web", port).replace("labels: {app: web}", said[says])
    return f"{entry}{rule}{peer_authentication(mode)}"


def found(folder: Path) -> list[Finding]:
    return [one for one in analyze([folder]).findings if one.code in CODES]


@pytest.mark.parametrize(("mode", "tls", "says"), combinations())
def test_it_is_found_where_a_request_fails(tmp_path: Path, ca: SpiffeCa, mode: str, tls: str, says: str) -> None:
    port = one_port()
    yaml = configuration(port, mode, tls, says)
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "client"), "client") as caller,
        serving(application, mesh, port),
        caller.client() as client,
    ):
        try:
            is_answered = client.get("http://web/").status_code == 200
        except httpx.TransportError:
            is_answered = False
    (tmp_path / "checked").mkdir()
    (tmp_path / "checked" / "mesh.yaml").write_text(yaml)
    assert bool(found(tmp_path / "checked")) is not is_answered


def test_the_cure_is_told_of_the_switch_for_the_whole_mesh(tmp_path: Path) -> None:
    mesh_config = (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'enableAutoMtls: false'}\n"
    )
    (tmp_path / "mesh.yaml").write_text(configuration(9080, "STRICT", "", "label") + mesh_config)
    [one] = found(tmp_path)
    assert one.text.endswith("speak plaintext, since the MeshConfig has enableAutoMtls: false")


def test_a_port_with_a_mode_of_its_own_counts_by_that(tmp_path: Path) -> None:
    selected = ", selector: {matchLabels: {app: web}}, portLevelMtls: {9080: {mode: PERMISSIVE}}"
    text = configuration(9080, "STRICT", "", "")
    (tmp_path / "mesh.yaml").write_text(text)
    assert len(found(tmp_path)) == 1
    (tmp_path / "mesh.yaml").write_text(
        text.replace(peer_authentication("STRICT"), peer_authentication("STRICT", selected))
    )
    assert found(tmp_path) == []
