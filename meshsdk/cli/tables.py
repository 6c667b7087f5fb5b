"""Tables of the command line."""

from __future__ import annotations

import json
import os
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..mesh_status import MeshStatus
from ..one_line import one_line

__all__ = ["standard_output", "table_of", "tell_status"]

_WIDEST = 10_000


def standard_output() -> Console:
    """Standard output; where it is no terminal, and no width is told, lines are as long as what they tell.

    A name that is folded is found by no `grep`.
    """
    is_told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if is_told else Console(width=_WIDEST)


def table_of(*names: str) -> Table:
    """A table that cuts no names: where the terminal is too narrow, they go on in the next line."""
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def tell_status(found: MeshStatus, as_json: bool) -> None:
    """Say what a process knows.

    Args:
        as_json: For programs.
    """
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _print_status(found)


def _print_status(found: MeshStatus) -> None:
    console = standard_output()
    table = table_of("type", "name", "status", "version", "error")
    for resource in found["resources"]:
        kind = resource["type"].rpartition(".")[2]
        _add(table, kind, resource["name"], resource["status"], resource["version"], resource["error"])
    console.print(table)
    endpoints = table_of("cluster", "endpoint", "priority", "health", "weight")
    for cluster, entries in found["clusters"].items():
        for entry in entries:
            _add(endpoints, cluster, entry["address"], str(entry["priority"]), entry["health"], str(entry["weight"]))
    console.print(endpoints)
    for note in found["notes"]:
        console.print(one_line(note), style="yellow", markup=False)
    if found["problem"]:
        console.print(one_line(found["problem"]), style="red", markup=False)


def _add(table: Table, *texts: str) -> None:
    """A row of texts that come from elsewhere: no markup, and nothing that a terminal acts on."""
    table.add_row(*(Text(one_line(text)) for text in texts))
