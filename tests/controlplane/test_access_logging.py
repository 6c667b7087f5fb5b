"""Access logs of a folder: Telemetry objects at each level, and what MeshConfig says of them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.controlplane.folder import load

from ..conftest import service
from ..processes import free_ports
from ..server.running import serving
from ..telemetry.applications import application, send


def telemetry(logging: str, namespace: str = "default", name: str = "t", selector: str = "") -> str:
    chosen = f"selector: {{matchLabels: {selector}}}, " if selector else ""
    return (
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{chosen}accessLogging: {logging}}}\n"
    )


def tracing(rules: str) -> str:
    return telemetry("[]").replace("accessLogging: []", f"tracing: {rules}")


def mesh_config(**fields: Any) -> str:
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": json.dumps(fields)},
    }
    return f"---\n{json.dumps(config_map)}\n"


def logged_to(tmp_path: Path, *documents: str, **options: Any) -> str:
    """What is in the log when a request to `reviews` has been sent, with every answer a 503."""
    config = tmp_path / "mesh"
    config.mkdir(exist_ok=True)
    (config / "mesh.yaml").write_text(service("reviews", 1) + "".join(documents))
    with meshsdk.Mesh(config=config, **options) as mesh:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                send(mesh, "sync", "GET", "http://reviews/")
    path = tmp_path / "log"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def file_log(tmp_path: Path) -> str:
    """MeshConfig with a file in the place of standard output."""
    return mesh_config(accessLogFile=str(tmp_path / "log"), accessLogFormat="%RESPONSE_FLAGS%")


ENVOY = "[{providers: [{name: envoy}]}]"
OFF = "[{disabled: true}]"


def test_without_a_word_of_it_nothing_is_written(tmp_path: Path) -> None:
    assert logged_to(tmp_path) == ""


def test_what_mesh_config_says_is_written(tmp_path: Path, file_log: str) -> None:
    assert logged_to(tmp_path, file_log) == "URX,UF\nURX,UF\n"


@pytest.mark.parametrize(
    ("documents", "is_written"),
    [
        ([telemetry(OFF)], False),
        ([telemetry(OFF, "istio-system")], False),
        ([telemetry(OFF, "istio-system"), telemetry(ENVOY)], True),
        ([telemetry(OFF, "elsewhere")], True),
        ([telemetry(OFF, selector="{app: other}")], True),
        ([telemetry("[{disabled: true, match: {mode: SERVER}}]")], True),
        ([telemetry("[{disabled: true, match: {mode: CLIENT}}]")], False),
        ([telemetry("[{disabled: true, providers: [{name: other}]}]")], True),
        ([telemetry("[{filter: {expression: 'response.code >= 400'}}]")], True),
        ([telemetry("[{filter: {expression: 'response.code < 400'}}]")], False),
    ],
)
def test_telemetry_of_mesh_namespace_and_workload_holds_in_this_order(
    documents: list[str], is_written: bool, tmp_path: Path, file_log: str
) -> None:
    assert logged_to(tmp_path, file_log, *documents) == ("URX,UF\nURX,UF\n" if is_written else "")


def test_a_provider_has_its_own_file_and_format(tmp_path: Path) -> None:
    labels = {"flags": "%RESPONSE_FLAGS%", "code": "%RESPONSE_CODE%"}
    provider = {"name": "mine", "envoyFileAccessLog": {"path": str(tmp_path / "log"), "logFormat": {"labels": labels}}}
    config = mesh_config(extensionProviders=[provider])
    written = logged_to(tmp_path, config, telemetry("[{providers: [{name: mine}]}]"))
    assert [json.loads(line) for line in written.splitlines()] == [{"flags": "URX,UF", "code": 503}] * 2


def test_json_is_an_encoding_of_mesh_configs(tmp_path: Path) -> None:
    config = mesh_config(accessLogFile=str(tmp_path / "log"), accessLogEncoding="JSON")
    assert json.loads(logged_to(tmp_path, config).splitlines()[0])["response_flags"] == "URX,UF"


def test_an_application_that_wants_no_log_has_none(tmp_path: Path, file_log: str) -> None:
    assert logged_to(tmp_path, file_log, access_log=False) == ""


def test_another_mesh_of_the_same_folder_goes_by_what_stands_there_then(tmp_path: Path, file_log: str) -> None:
    assert logged_to(tmp_path, file_log, telemetry(OFF)) == ""
    assert logged_to(tmp_path, file_log) == "URX,UF\nURX,UF\n"


def test_a_server_writes_by_the_telemetry_of_its_workload(tmp_path: Path, stack: ExitStack, file_log: str) -> None:
    [port] = free_ports(1)
    config = tmp_path / "mesh"
    config.mkdir()
    mode = telemetry("[{disabled: true, match: {mode: CLIENT}}]")
    (config / "mesh.yaml").write_text(service("reviews", port) + file_log.replace("FLAGS", "CODE") + mode)
    mesh = stack.enter_context(meshsdk.Mesh(config=config))
    with serving(application(), mesh, port):
        httpx.get(f"http://127.0.0.1:{port}/")
    mesh.close()
    assert (tmp_path / "log").read_text() == "200\n"


def test_a_provider_that_takes_no_access_logs_is_told_of(tmp_path: Path) -> None:
    provider = {"name": "als", "zipkin": {"service": "zipkin", "port": 1}}
    document = mesh_config(extensionProviders=[provider]) + telemetry("[{providers: [{name: als}, {name: envoy}]}]")
    (tmp_path / "mesh.yaml").write_text(document)
    [problem] = load(tmp_path).problems
    assert not problem.is_error
    assert "Telemetry default/t: provider 'als'" in problem.text


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (telemetry("[{match: {mode: NEVER}}]"), "mode"),
        (telemetry("[{providers: [{}]}]"), "name"),
        (telemetry("[{disabeld: true}]"), "disabeld"),
        (tracing('[{"randomSamplingPercentage": 101}]'), "randomSamplingPercentage"),
        (tracing('[{"customTags": {"a": {"literal": {"value": "x"}, "header": {"name": "y"}}}}]'), "customTags['a']"),
        (tracing('[{"customTags": {"a": {"literal": {}}}}]'), "value"),
        (tracing('[{"randomSampling": 1}]'), "randomSampling"),
        (mesh_config(accessLogEncoding="JSON", accessLogFormat="no json"), "JSON object"),
    ],
)
def test_what_cannot_be_meant_is_an_error(document: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(document)
    assert any(problem in text for text in load(tmp_path).errors)
