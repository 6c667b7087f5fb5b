"""Benchmarks that few people run can still be run: some requests of each that goes at the engine's insides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import meshsdk
from tests.benchmarks import __main__ as bench
from tests.benchmarks import fronts, metrics, throughput
from tests.benchmarks.configuration import write_large, write_small
from tests.processes import free_ports, nginx


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[bench.Setup]:
    with ExitStack() as stack:
        ports = free_ports(3)
        stack.enter_context(nginx(ports, tmp_path))
        mesh = stack.enter_context(meshsdk.Mesh(config=write_small(tmp_path / "mesh", ports)))
        bare = f"http://127.0.0.1:{ports[0]}/"
        yield bench.Setup(mesh, "http://bench/reviews/1", bare, bare)


def test_requests_a_second(setup: bench.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROUNDS", 1), ("MANY", 200), ("FEW", 100)):
        monkeypatch.setattr(throughput, name, value)
    found = {result.name: result.value for result in bench._throughput(setup)}
    barred = {name for name in bench._THROUGHPUT_BARS if "aiohttp" not in name}
    assert barred <= set(found)
    assert all(value > 0 for value in found.values())


def test_time_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "ROUNDS", 1)
    monkeypatch.setattr(fronts, "REQUESTS", 100)
    assert len(bench._fronts()) == 12


def test_costs_of_a_decision_and_of_metrics(
    setup: bench.Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "write_large", lambda folder, *_: write_large(folder, 2, 3))
    monkeypatch.setattr(metrics, "ROUNDS", 1)
    assert len(bench._decision_cost(setup, tmp_path)) == 2
    assert len(bench._metrics(tmp_path)) == 2
