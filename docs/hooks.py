"""The reference's entries: on GitHub a name with its first sentence; in the site all that its docstring says."""

from __future__ import annotations

import json
import re
from typing import Any

# A heading that is a name, and the sentence below it.
ENTRY = re.compile(r"^(##+) `([\w.]+)`\n\n((?:[^\n#|:].*\n)+)", re.M)

# Members that are for the inside alone, or said elsewhere.
OPTIONS: dict[str, dict[str, Any]] = {
    "meshsdk.Mesh": {"filters": ["!^_", "!^runtime$"]},
    "meshsdk.MeshResponseInfo": {"filters": ["!^_", "!^parts$"]},
    "meshsdk.MeshTransport": {"members": []},
    "meshsdk.AsyncMeshTransport": {"members": []},
    "meshsdk.Decision": {"filters": ["!^_", "!^tree$"]},
    "meshsdk.MeshRpcError": {"members": []},
    "meshsdk.LoadReports": {"members": ["add_to_server"]},
    "meshsdk.LoadReport": {"members": []},
    "meshsdk.server.Inbound": {"members": ["policy", "wait_ready", "wait_ready_async"]},
    "meshsdk.server.uvicorn_protocol.MeshProtocol": {"members": []},
    "meshsdk.identities.SdsIdentity": {"members": ["spiffe_id", "expires_at", "problem", "credentials", "close"]},
    "meshsdk.identities.WorkloadApiIdentity": {
        "members": ["spiffe_id", "expires_at", "problem", "credentials", "close"]
    },
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs's hook: entries become directives of mkdocstrings."""
    if not page.file.src_uri.startswith("reference/"):
        return markdown
    return ENTRY.sub(lambda found: _directive(len(found[1]), found[2]), markdown)


def _directive(level: int, name: str) -> str:
    return f"::: {name}\n    options: {json.dumps({'heading_level': level, **OPTIONS.get(name, {})})}\n"
