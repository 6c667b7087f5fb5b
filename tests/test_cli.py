"""The command line, as a person or a program runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from meshsdk.identities import SdsIdentity
from meshsdk.version import VERSION
from tests.conftest import service, virtual_service
from tests.processes import CLEAN_ENVIRONMENT

from .patience import PATIENCE

URL = "http://a/old"


def run(
    *arguments: str, stdin: str = "", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshsdk", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**CLEAN_ENVIRONMENT, "COLUMNS": "160", **environment},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rule = "[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: a}}]}]"
    (tmp_path / "m.yaml").write_text(service("a", 8081) + virtual_service("a", rule))
    return tmp_path


def test_check_passes_a_good_folder(folder: Path) -> None:
    result = run("check", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 listener" in result.stdout


def test_check_lists_every_problem_and_exits_with_one(folder: Path) -> None:
    (folder / "bad.yaml").write_text(service("b", 1).replace("port: 80", "port: x") + virtual_service("c", "[{}]"))
    result = run("check", str(folder))
    assert result.returncode == 1
    assert "bad.yaml document 1 Service/b.spec.ports[0].port" in result.stderr
    assert "VirtualService/c.spec.http[0].route" in result.stderr


def test_check_says_which_servers_have_no_policy_that_can_be_carried_out(tmp_path: Path) -> None:
    custom = (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask}\n"
        "spec: {action: CUSTOM, provider: {name: nobody}, rules: [{}]}\n"
    )
    (tmp_path / "mesh.yaml").write_text(service("web", 8080) + custom)
    result = run("check", str(tmp_path))
    assert "nobody" in result.stdout
    assert "servers of default/{'app': 'web'} let nobody in" in " ".join(result.stdout.split())


def test_check_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "no such file or folder" in result.stderr


def test_route_explains_for_people(folder: Path) -> None:
    result = run("route", str(folder), "GET", "http://a/old/x")
    assert result.returncode == 0
    for words in ("/new/x", "outbound|80||a.default.svc.cluster.local", "127.0.0.1:8081"):
        assert words in result.stdout


def test_route_says_why_nothing_matches_and_exits_with_one(folder: Path) -> None:
    result = run("route", str(folder), "GET", "http://a/else", "-H", "x-a: b")
    assert result.returncode == 1
    assert "path '/else' does not match prefix '/old'" in result.stdout


def test_route_explains_for_programs(folder: Path) -> None:
    decision = json.loads(run("route", str(folder), "GET", "http://a/old", "--json").stdout)
    assert decision["action"] == "forward"
    assert decision["path"] == "/new"


def test_route_takes_and_gives_json_lines(folder: Path) -> None:
    lines = '{"url": "http://a/old"}\n{"method": "PUT", "url": "http://a/x"}\n\nnonsense\n{"url": 5}\n'
    result = run("route", str(folder), "--requests", "-", stdin=lines)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer.get("action", "error") for answer in answers] == ["forward", "no_route", "error", "error"]


def test_names_are_whole_in_what_is_piped_to_another_command(folder: Path) -> None:
    unset = {name: value for name, value in CLEAN_ENVIRONMENT.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "meshsdk", "status", str(folder), "--target", "a"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=unset).stdout
    assert "│ ClusterLoadAssignment │ outbound|80||a.default.svc.cluster.local │" in shown


def test_status_shows_what_is_known(folder: Path) -> None:
    found = json.loads(run("status", str(folder), "--target", "a", "--json").stdout)
    assert "outbound|80||a.default.svc.cluster.local" in found["clusters"]


def test_without_configuration_the_error_says_what_to_do() -> None:
    result = run("status")
    assert result.returncode == 2
    assert "MESHSDK_CONFIG" in result.stderr


# Shells have what they start in the background ignore interrupts, which children inherit. A `preexec_fn` would run in
# a fork of this process, whose threads of grpc's do not survive it.
_LISTENING = (
    "import runpy, signal;"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_module('meshsdk', run_name='__main__', alter_sys=True)"
)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_control_plane_serves_until_it_is_told_to_stop(folder: Path, told: signal.Signals) -> None:
    command = [sys.executable, "-u", "-c", _LISTENING, "control-plane", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN_ENVIRONMENT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "resources" in lines[0]
        assert "serving" in lines[1]
        process.send_signal(told)
        assert process.wait(PATIENCE) == 0


def test_the_control_plane_listens_on_a_socket_and_says_how_to_use_it(folder: Path, tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    command = [sys.executable, "-u", "-c", _LISTENING, "control-plane", str(folder), "--socket", str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN_ENVIRONMENT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert f"on unix:{socket}" in lines[1]
        assert f'"server_uri":"unix:{socket}"' in lines[2]
        with closing(SdsIdentity(socket, certificate_name="spiffe://cluster.local/ns/default/sa/web")) as who:
            assert who.credentials().spiffe_id == "spiffe://cluster.local/ns/default/sa/web"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_it_tells_its_version() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout == f"meshsdk {VERSION}\n"


def test_route_takes_get_for_granted(folder: Path) -> None:
    assert run("route", str(folder), URL).stdout == run("route", str(folder), "GET", URL).stdout
    assert run("route", str(folder)).returncode == 2


def test_route_asks_as_a_client_of_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {ports: [{port: 80}]}\n"
    )
    asked = ("route", str(tmp_path), "http://reviews/")
    assert "the mesh does not know" in run(*asked).stdout
    assert "outbound|80||reviews.shop.svc.cluster.local" in run(*asked, "--namespace", "shop").stdout
    assert "outbound|80||reviews.shop.svc.cluster.local" in run(*asked, MESHSDK_NAMESPACE="shop").stdout
    refused = run(*asked, "--namespace", "Shop!")
    assert refused.returncode == 2
    assert "namespace must be a name of Kubernetes, is 'Shop!'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nowhere",), "there is no file or folder 'nowhere'"),
        ((".", "--host", "no.such.host.invalid"), "--host no.such.host.invalid: "),
        ((".", "--port", "99999"), "less than or equal to 65535"),
    ],
    ids=["no folder", "no host", "no port"],
)
def test_the_control_plane_says_what_cannot_be_served(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    result = run("control-plane", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert why in result.stderr


def test_names_are_not_cut_where_the_terminal_is_narrow(folder: Path) -> None:
    shown = run("status", str(folder), "--target", "a", COLUMNS="60").stdout
    assert "…" not in shown
    assert "outbound|80||a.default.svc.cluster.local" in "".join(
        cell for line in shown.splitlines() for cell in line.split("│")[2:3]
    ).replace(" ", "")


def test_route_breaks_no_line_where_the_terminal_is_narrow(folder: Path) -> None:
    asked = ("route", str(folder), "GET", "http://a/old/x")
    assert run(*asked, COLUMNS="40").stdout == run(*asked, COLUMNS="400").stdout


def test_the_control_plane_tells_each_finding_once(tmp_path: Path) -> None:
    rule = "[{route: [{destination: {host: a}}], retires: {attempts: 2}}]"
    (tmp_path / "m.yaml").write_text(service("a", 8081) + virtual_service("a", rule))
    command = [sys.executable, "-u", "-c", _LISTENING, "control-plane", str(tmp_path), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=CLEAN_ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "retires" in process.stdout.readline()
        assert "resources" in process.stdout.readline()
        assert "serving" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "retires" not in process.stderr.read()
        assert process.wait(PATIENCE) == 0
