"""What an xDS client says of itself, for `meshsdk status ADDRESS`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..one_line import one_line

__all__ = ["is_address", "is_troubled", "print_clients"]

# What a client says of a resource that it has not.
_MISSING = ("DOES_NOT_EXIST", "TIMEOUT")
_BAD = ("NACKED", "RECEIVED_ERROR")
_LISTENER = "envoy.config.listener.v3.Listener"


def is_address(text: str) -> bool:
    """Whether an argument is where somebody listens, and no folder that there is."""
    if Path(text).exists():
        return False
    return text.startswith(("unix:", "dns:", "ipv4:", "ipv6:")) or text.rpartition(":")[2].isdecimal()


def is_troubled(client: dict[str, Any], resource: dict[str, Any]) -> bool:
    """Whether a client has refused a resource, or has not what it asks for."""
    if resource["status"] in _BAD or resource["synchronized"] in ("STALE", "ERROR"):
        return True
    return resource["status"] in _MISSING and not _is_outside(client, resource)


def _is_outside(client: dict[str, Any], resource: dict[str, Any]) -> bool:
    """For a process of this library's, a listener that does not exist is a host outside the mesh, or a spelling."""
    is_ours: bool = client["user_agent"].startswith("meshsdk") and resource["type"].endswith(_LISTENER)
    return is_ours and resource["status"] == "DOES_NOT_EXIST"


def print_clients(clients: list[dict[str, Any]], console: Console) -> None:
    """Print a table of each client's resources."""
    now = time.time()
    for client in clients:
        about = " ".join(filter(None, (client["node"], client["user_agent"], client["scope"])))
        console.print(Text(one_line(about), "bold"))
        table = Table()
        for name in ("type", "name", "status", "version", "age", "error"):
            table.add_column(name, overflow="fold")
        for one in client["resources"]:
            status = " ".join(text for text in (one["status"], one["synchronized"]) if text != "UNKNOWN")
            age = _shown(now - one["updated_at"]) if one["updated_at"] is not None else ""
            error = f"version {one['error_version']}: {one['error']}" if one["error_version"] else one["error"]
            texts = (one["type"].rpartition(".")[2], one["name"], status or "UNKNOWN", one["version"], age, error)
            looks = {2: _look(client, one)}
            table.add_row(*(Text(one_line(text), looks.get(place, "")) for place, text in enumerate(texts)))
        console.print(table)


def _look(client: dict[str, Any], resource: dict[str, Any]) -> str:
    if is_troubled(client, resource):
        return "red"
    return {"ACKED": "green", "REQUESTED": "yellow"}.get(resource["status"], "dim")


def _shown(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
