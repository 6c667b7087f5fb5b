"""Ask a process that runs what it knows: by its admin page, which is found by the process's number."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import msgspec

from ..mesh_status import MeshStatus

__all__ = ["NotAsked", "page_of_process", "status_of_page"]

_LISTENING = "0A"  # Linux: include/net/tcp_states.h
_LOOK_SECONDS = 2.0


class NotAsked(Exception):
    """A process cannot be asked; the message says why, and what to do."""


def page_of_process(pid: int) -> str:
    """The URL of a process's admin page.

    Args:
        pid: Its number, on this machine.

    Raises:
        NotAsked: There is no such process or page, or it may not be looked for.
    """
    try:
        ports = _ports_of(pid)
    except FileNotFoundError:
        if not Path("/proc/self").exists():
            raise NotAsked("processes are found by /proc, which is not here; give the page's URL") from None
        raise NotAsked(f"there is no process {pid}") from None
    except PermissionError:
        raise NotAsked(f"process {pid} is another user's; run this as that user, or give the page's URL") from None
    for port in ports:
        url = f"http://127.0.0.1:{port}"
        if _is_page(url):
            return url
    raise NotAsked(f"process {pid} has no admin page: start it with MESHSDK_ADMIN_PORT=15000, or Mesh(admin_port=…)")


def status_of_page(url: str, seconds: float) -> MeshStatus:
    """What a process says by its admin page.

    Raises:
        NotAsked: It does not answer, or is no such page.
    """
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/status", timeout=seconds, trust_env=False)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=MeshStatus)
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError, RecursionError) as error:
        raise NotAsked(f"{url} does not answer as an admin page of meshsdk's: {error}") from None


def _ports_of(pid: int) -> list[int]:
    """The ports at which a process listens (proc(5)).

    Raises:
        OSError: It may not be looked at, or is none.
    """
    process = Path(f"/proc/{pid}")
    own = set()
    for descriptor in (process / "fd").iterdir():
        try:
            own.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # It was closed meanwhile.
    ports = set()
    for name in ("tcp", "tcp6"):
        for line in (process / "net" / name).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENING and f"socket:[{inode}]" in own:
                ports.add(int(local.rpartition(":")[2], 16))
    return sorted(ports)


def _is_page(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/server_info", timeout=_LOOK_SECONDS, trust_env=False)
        return answer.status_code == 200 and b'"user_agent_name": "meshsdk"' in answer.content
    except httpx.HTTPError:
        return False
