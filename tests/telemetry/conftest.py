"""Fixtures of metrics."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from ..grpc.conftest import clients, connect, kind  # noqa: F401 - fixtures of gRPC's tests.
from .scraping import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> World:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return World(tmp_path, monkeypatch, stack)
