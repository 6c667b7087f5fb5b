"""One route to one port, as Envoy would be told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import meshsdk
from tests.differential.subjects import cluster

__all__ = ["TYPE", "routed", "write_route"]

TYPE = "type.googleapis.com/envoy"


def write_route(folder: Path, port: int, action: dict[str, Any], **fields: Any) -> None:
    """A folder in which `subject.test` leads to one port by one action; `fields` are the cluster's."""
    folder.mkdir(exist_ok=True)
    manager = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "route_config": {
            "name": "r",
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c", **action}}],
                }
            ],
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "@type": f"{TYPE}.config.listener.v3.Listener",
        "name": "subject.test",
        "api_listener": {"api_listener": manager},
    }
    documents = [listener, {"@type": f"{TYPE}.config.cluster.v3.Cluster", **cluster("c", port, **fields)}]
    for index, document in enumerate(documents):
        (folder / f"{index}.json").write_text(json.dumps(document))


def routed(folder: Path, port: int, action: dict[str, Any], **fields: Any) -> meshsdk.Mesh:
    """A mesh over such a folder."""
    write_route(folder, port, action, **fields)
    return meshsdk.Mesh(config=folder)
