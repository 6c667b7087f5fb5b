"""The dashboard in integrations/grafana, as Grafana would ask it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["DASHBOARD", "panels_of", "targets_of"]

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "integrations/grafana/meshsdk.json").read_text())


def panels_of() -> list[dict[str, Any]]:
    """All that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def targets_of(variables: Mapping[str, str], rate_interval: str) -> Iterator[tuple[str, str]]:
    """Title of the panel and query of each target, its variables filled in."""
    for panel in panels_of():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", rate_interval)
            for name, value in variables.items():
                query = query.replace(f"${name}", value)
            assert "$" not in query, f"{panel['title']} has a variable that there is not: {query}"
            yield panel["title"], query
