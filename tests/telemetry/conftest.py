"""Fixtures of metrics."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..grpc.conftest import clients, connect, kind  # noqa: F401 - fixtures of gRPC's tests.

if TYPE_CHECKING:
    from .scraping import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> World:
    from .scraping import World  # It takes prometheus_client, which other tests here do without.

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return World(tmp_path, monkeypatch, stack)
