"""Requests by the configuration of then, and what another configuration would do to them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import meshsdk
from meshsdk.admin import history
from meshsdk.admin.history import History
from meshsdk.exchange import Directory

from ..conftest import destination_rule, service, virtual_service
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT
from ..servers import EchoServer
from .conftest import Page

ROOT = Path(__file__).parents[2]


def to(name: str, *, route: str = "r", path: str = "/") -> str:
    return f"{{name: {route}, match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: {name}}}}}]}}"


def test_a_request_can_be_explained_by_the_configuration_of_then(page: Page) -> None:
    services = service("a", 1) + "---\n" + service("b", 2)
    page.configure(services + virtual_service("a", f"[{to('a', route='before')}]"))
    mesh = page.open()
    assert mesh.explain("GET", "http://a/").route == "before"
    then = datetime.now(UTC)
    time.sleep(0.01)
    page.configure(services + virtual_service("a", f"[{to('b', route='after')}]"))
    eventually(lambda: mesh.explain("GET", "http://a/").route == "after")
    eventually(lambda: mesh.explain("GET", "http://a/", at=datetime.now(UTC)).route == "after")
    assert mesh.explain("GET", "http://a/", at=then).route == "before"
    asked = {"method": "GET", "url": "http://a/", "at": then.timestamp()}
    assert page.client.post("/api/explain", json=asked).json()["route"] == "before"
    with pytest.raises(LookupError, match="so long ago"):
        mesh.explain("GET", "http://a/", at=then - timedelta(days=1))
    with pytest.raises(LookupError, match="nobody had asked"):
        mesh.explain("GET", "http://b/", at=then)
    assert page.client.post("/api/explain", json={**asked, "at": 1}).status_code == 404
    assert page.client.post("/api/explain", json={**asked, "at": "x"}).status_code == 400


def test_without_a_page_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(service("a", 1))
    with meshsdk.Mesh(config=tmp_path) as mesh, pytest.raises(LookupError, match="admin_port"):
        mesh.explain("GET", "http://a/", at=datetime.now(UTC))


def test_of_many_changes_those_that_lasted_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(history.time, "time", lambda: now)
    kept = History()
    for version in range(1, 1001):
        kept.keep(Directory(version))
        kept.keep(Directory(version))
        # Every hundredth stays for a minute, the others come and go.
        now += 60 if version % 100 == 0 else 0.1
    assert len(kept._kept) == 64
    assert set(range(100, 1001, 100)) <= {directory.version for _, directory in kept._kept}
    assert kept.find(now).version == 1000
    assert kept.find(now - 65).version == 900


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshsdk", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**CLEAN_ENVIRONMENT, "COLUMNS": "200"},
        timeout=PATIENCE,
        check=False,
    )


def test_recorded_requests_are_tried_with_another_configuration(page: Page, tmp_path: Path) -> None:
    recording, planned = tmp_path / "recording.jsonl", tmp_path / "planned"
    planned.mkdir()
    with EchoServer("a") as server:
        services = service("a", server.port) + "---\n" + service("b", server.port)
        page.configure(services)
        mesh = page.open()
        done = threading.Event()

        def send() -> None:
            with mesh.client() as client:
                while not done.wait(0.01):
                    for path in ("same", "moved", "gone", "here"):
                        client.get(f"http://a/{path}?token=geheim", headers={"authorization": "geheim"})

        thread = threading.Thread(target=send)
        thread.start()
        try:
            told = run("record", page.url, "--output", str(recording), "--seconds", "2")
        finally:
            done.set()
            thread.join()
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    assert sorted(line["url"] for line in lines) == [
        f"http://a/{path}?token=[redacted]" for path in ("gone", "here", "moved", "same")
    ]
    assert all(line["count"] > 1 for line in lines), "what is the same is one line"
    assert "geheim" not in recording.read_text()
    assert f"{sum(line['count'] for line in lines)} requests, 4 of them different" in told.stdout

    (planned / "mesh.yaml").write_text(services)
    told = run("replay", str(recording), "--config", str(planned))
    assert (told.returncode, told.stdout.split()[1:]) == (0, ["same"]), told.stdout
    elsewhere = run("replay", str(recording), "--config", str(planned), "--namespace", "other")
    assert elsewhere.returncode == 1, "short names are another namespace's"

    changed = [
        to("b", path="/moved"),
        to("nobody", path="/gone"),
        "{match: [{uri: {prefix: /here}}], directResponse: {status: 418}}",
        to("a"),
    ]
    (planned / "mesh.yaml").write_text(services + virtual_service("a", f"[{', '.join(changed)}]"))
    told = run("replay", str(recording), "--config", str(planned), "--json")
    assert told.returncode == 1
    verdicts = {one["url"].partition("?")[0][9:]: one for one in map(json.loads, told.stdout.splitlines())}
    assert {path: one["verdict"] for path, one in verdicts.items()} == {
        "moved": "elsewhere",
        "gone": "fails",
        "here": "answered here",
        "same": "same",
    }
    assert verdicts["moved"]["before"].startswith("outbound|80||a.default")
    assert verdicts["moved"]["after"].startswith("outbound|80||b.default")
    told = run("replay", str(recording), "--config", str(planned))
    assert "fails" in told.stdout
    assert "elsewhere" in told.stdout
    told = run("replay", str(recording), "--config", str(planned), "--allow", "elsewhere", "--allow", "answered here")
    assert told.returncode == 1, "one still fails"
    (planned / "mesh.yaml").write_text(services + virtual_service("a", f"[{to('b', path='/moved')}, {to('a')}]"))
    told = run("replay", str(recording), "--config", str(planned), "--allow", "elsewhere")
    assert told.returncode == 0


def test_a_smaller_change_is_told_too_and_what_was_broken_is_mended(page: Page, tmp_path: Path) -> None:
    recording = tmp_path / "recording.jsonl"
    page.configure(service("a", 1))
    mesh = page.open()
    good = mesh.explain("GET", "http://a/").to_dict()
    page.configure(service("a"))
    eventually(lambda: mesh.explain("GET", "http://a/").clusters[0].problem)
    broken = mesh.explain("GET", "http://a/").to_dict()
    request = {"method": "GET", "url": "http://a/", "headers": [], "count": 3}
    planned = tmp_path / "planned.yaml"
    slower = virtual_service("a", "[{timeout: 3s, route: [{destination: {host: a}}]}]")
    for decision, yaml, verdict, code in (
        (good, service("a", 1), "same", 0),
        (good, service("a", 1) + slower, "changed", 1),
        (good, service("a"), "fails", 1),
        (broken, service("a", 1), "mended", 0),
        (good, service("a", 1) + destination_rule("a", "trafficPolicy: {loadBalancer: {simple: RANDOM}}"), "same", 0),
    ):
        recording.write_text(json.dumps({**request, "decision": decision}) + "\n")
        planned.write_text(yaml)
        told = run("replay", str(recording), "--config", str(planned), "--json")
        assert (json.loads(told.stdout)["verdict"], told.returncode) == (verdict, code), yaml


@pytest.mark.parametrize("text", ["{", "[]", '{"method": "GET"}', '"x"', "1"])
def test_what_is_no_recording_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    recording, planned = tmp_path / "recording.jsonl", tmp_path / "planned.yaml"
    recording.write_text(f"\n{text}\n")
    planned.write_text(service("a", 1))
    told = run("replay", str(recording), "--config", str(planned))
    assert told.returncode == 2
    assert "line 2 is no request" in told.stderr


def test_a_page_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = run("record", "http://127.0.0.1:1", "--output", str(tmp_path / "x"), "--seconds", "1")
    assert told.returncode == 2
    assert "MESHSDK_ADMIN_PORT" in told.stderr
