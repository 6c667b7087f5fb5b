"""Fixtures of servers."""

from __future__ import annotations

import pytest

from ..loops import LOOPS
from .running import Loop


@pytest.fixture(params=LOOPS)
def each_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Applications are served on each event loop."""
    name: str = request.param
    monkeypatch.setattr(Loop, "name", name)
    return name
