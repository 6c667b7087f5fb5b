"""Meshes with an admin page, and traffic to look at."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..patience import PATIENCE, eventually
from ..processes import free_ports

__all__ = ["Page", "eventually"]


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
