"""Metrics and access logs are told the same of how each request has ended."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..differential.inbound_subjects import running_server
from ..differential.logged_exchanges import (
    SERVER_FILTERS,
    SERVER_ROUTES,
    answer_to,
    exchanges,
    make_server_logs,
    run_on_the_mesh,
    running_upstream,
    send_all,
    server_exchanges,
)
from ..patience import PATIENCE
from ..processes import free_ports
from .scraping import REQUESTS, scrape

_SEED, _COUNT = 7, 120
# Of the format WIDE.
_ENDING = re.compile(r"^.* HTTP/\S+ (\d+) (\S+) ", re.MULTILINE)


def _logged(folder: Path) -> Counter[tuple[str, str]]:
    return Counter((code, flags) for code, flags in _ENDING.findall((folder / "wide.log").read_text("utf-8")))


def _counted(port: int, wanted: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    deadline = time.monotonic() + PATIENCE
    while True:
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in scrape(port).find(REQUESTS):
            found[labels["response_code"], labels["response_flags"]] += int(value)
        if found == wanted or time.monotonic() > deadline:
            return found


def test_a_clients_metrics_have_the_flags_of_its_access_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("MESHSDK_METRICS_PORT", str(port))
    counted: list[Any] = []
    close = meshsdk.Mesh.close

    def last_look(mesh: meshsdk.Mesh) -> None:
        wait_for_lines(tmp_path / "meshsdk", _COUNT + 1)
        counted.append(_counted(port, _logged(tmp_path / "meshsdk")))
        close(mesh)

    monkeypatch.setattr(meshsdk.Mesh, "close", last_look)
    with running_upstream() as clusters:
        run_on_the_mesh(tmp_path / "meshsdk", exchanges(_SEED, _COUNT), clusters)
    logged = _logged(tmp_path / "meshsdk")
    assert ("200", "UPE") in logged, "a body breaks off in some exchange"
    assert counted[0] == logged


def test_a_servers_metrics_have_the_flags_of_its_access_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("MESHSDK_METRICS_PORT", str(port))
    manager = {"access_log": make_server_logs(tmp_path)}
    with (
        running_server(
            "meshsdk", tmp_path, SERVER_FILTERS, answer_to, routes=SERVER_ROUTES, manager=manager
        ) as subject,
        httpx.Client(timeout=PATIENCE) as client,
    ):
        send_all(client, f"http://127.0.0.1:{subject.port}", {"host": "subject.test"}, server_exchanges(_SEED, _COUNT))
        wait_for_lines(tmp_path, _COUNT + 1)
        logged = _logged(tmp_path)
        assert len(logged) > 4
        assert _counted(port, logged) == logged


def wait_for_lines(folder: Path, count: int) -> None:
    path = folder / "wide.log"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.05)
