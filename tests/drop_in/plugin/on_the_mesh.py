"""A plugin of pytest's for somebody else's tests: their library's clients send over a mesh that knows no host.

It stands in a folder of its own, which is no package: the suites are packages called `tests`, as ours are.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

import meshsdk
from meshsdk.http.of_httpx import HTTPX

LIBRARY, SUBJECT, REPORT = (os.environ[f"MESHSDK_SUITE_{name}"] for name in ("LIBRARY", "SUBJECT", "REPORT"))
OUTCOMES: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Have clients take our transports where nobody gives them one."""
    if SUBJECT == "bare":
        return
    library = importlib.import_module(LIBRARY)
    ours = importlib.import_module("meshsdk.http" if LIBRARY == "httpx" else f"meshsdk.{LIBRARY}")
    mesh = meshsdk.Mesh(config=tempfile.mkdtemp(prefix="meshsdk-suite-"))
    for client, transport in ((library.Client, ours.MeshTransport), (library.AsyncClient, ours.AsyncMeshTransport)):
        client._init_transport = _init_transport(mesh, transport)
    if SUBJECT == "front":
        seen = ours.HTTPX2 if LIBRARY == "httpx2" else HTTPX
        for name, made in (("Client", seen.client_class), ("AsyncClient", seen.async_client_class)):
            assert made is not getattr(library, name), "this release is not known"
            for module in (library, library._client, library._api):
                if hasattr(module, name):
                    setattr(module, name, made)


def _init_transport(mesh: meshsdk.Mesh, made: Any) -> Any:
    def init_transport(self: Any, verify: Any = True, **options: Any) -> Any:
        given = options.get("transport")
        if given is not None:
            return given
        limits = options.get("limits")
        more = {"limits": limits} if limits is not None else {}
        return made(mesh, verify=verify, http2=options.get("http2", False), **more)

    return init_transport


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test ended."""
    if report.when == "call" or report.outcome == "failed":
        text = "" if report.outcome != "failed" else str(report.longrepr).strip().splitlines()[-1][:200]
        OUTCOMES[report.nodeid] = f"{report.outcome} {text}".strip()


def pytest_sessionfinish() -> None:
    """Tell them."""
    Path(REPORT).write_text(json.dumps(OUTCOMES))
