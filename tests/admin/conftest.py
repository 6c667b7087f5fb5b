"""Meshes with an admin page, and traffic to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..patience import PATIENCE
from ..processes import free_ports

__all__ = ["Page", "eventually"]


def eventually(holds: Callable[[], Any]) -> Any:
    """What a function returns, as soon as it is something."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


class Page:
    """The admin page of one Mesh over a folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        folder.mkdir()

    def configure(self, yaml: str) -> None:
        (self.folder / "mesh.yaml").write_text(yaml)

    def open(self, **options: Any) -> meshsdk.Mesh:
        """The Mesh, whose page is there."""
        (port,) = free_ports(1)
        if "bootstrap" not in options:
            options["config"] = self.folder
        mesh = self._stack.enter_context(meshsdk.Mesh(admin_port=port, **options))
        self.url = eventually(lambda: mesh.admin_url).removesuffix("/")
        self.client = self._stack.enter_context(httpx.Client(base_url=self.url, timeout=PATIENCE))
        return mesh

    def text(self, path: str, **query: str) -> str:
        response = self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.text

    def json(self, path: str, **query: str) -> Any:
        response = self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def page(tmp_path: Path, stack: ExitStack) -> Page:
    return Page(tmp_path / "shown", stack)
