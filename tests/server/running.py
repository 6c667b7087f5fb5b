"""Servers of the mesh, started in threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn.server

import meshsdk
from meshsdk.identities import FileIdentity
from meshsdk.server.serve import MeshServer, make_server

from ..certificates import SpiffeCa, spiffe, write_identity
from ..patience import PATIENCE
from ..processes import free_ports

__all__ = ["Loop", "answers", "identity", "mesh_of", "peer_authentication", "policy", "serving"]


class _Brisk:
    """asyncio for uvicorn, which looks ten times a second whether it should stop, and waits a tenth after that."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


# The tests start and stop a thousand servers.
uvicorn.server.asyncio = _Brisk()


class Loop:
    """The event loop that applications are served on: uvicorn's choice."""

    name = "auto"


@contextlib.contextmanager
def serving(app: Any, mesh: meshsdk.Mesh, port: int, **options: Any) -> Iterator[MeshServer]:
    """An application, served until the block ends."""
    options.setdefault("loop", Loop.name)
    server = make_server(app, mesh, port, host="127.0.0.1", **options)
    thread = threading.Thread(target=server.run, name="served")
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.started, "the server did not start"
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def identity(folder: Path, ca: SpiffeCa, account: str, *, roots: bytes = b"", **issued: Any) -> FileIdentity:
    """An identity of files, signed by `ca`; peers are trusted by `roots`, or by the same CA."""
    place = folder / f"{account}-{len(list(folder.iterdir()))}"
    name = issued.pop("uri", spiffe(account))
    write_identity(place, ca.issue(*([name] if name else []), **issued), roots or ca.pem)
    return FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")


def mesh_of(folder: Path, yaml: str, who: Any = None, name: str = "mesh") -> meshsdk.Mesh:
    """A mesh over YAML."""
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "mesh.yaml").write_text(yaml)
    return meshsdk.Mesh(config=place, identity=who)


def peer_authentication(mode: str, extra: str = "") -> str:
    """YAML of a PeerAuthentication of the namespace."""
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mtls}\n"
        f"spec: {{mtls: {{mode: {mode}}}{extra}}}\n"
    )


def policy(spec: str, name: str = "policy", kind: str = "AuthorizationPolicy") -> str:
    """YAML of a security policy; `spec` in flow style."""
    return f"---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def one_port() -> int:
    """A port that is free."""
    [port] = free_ports(1)
    return port


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers each request with nothing."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
