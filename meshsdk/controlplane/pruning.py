"""What of an object nobody reads, and need not be kept: a dump of a namespace has ten times as much as matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .kinds import Kind

__all__ = ["pruned"]

# What is read of the kinds that there are thousands of; None is all.
_Kept = Mapping[str, Any]
_CONTAINERS: _Kept = {"ports": None, "restartPolicy": None}
_KEPT: dict[Kind, _Kept] = {
    ("", "Pod"): {
        "spec": {
            "containers": _CONTAINERS,
            "hostname": None,
            "initContainers": _CONTAINERS,
            "nodeName": None,
            "serviceAccountName": None,
            "subdomain": None,
        },
        "status": {"conditions": None, "phase": None, "podIP": None},
    },
    ("", "Node"): {"spec": {}, "status": {}},
}


def pruned(data: dict[Any, Any], kind: Kind | None) -> dict[Any, Any]:
    """A document without what nobody reads of it.

    Args:
        data: The document.
        kind: Whose it is; None of what is not ours: of that its name remains, and whom it is for.
    """
    metadata = data.get("metadata")
    if kind is None:
        name = {"name": metadata.get("name")} if isinstance(metadata, dict) else metadata
        left = {"apiVersion": data.get("apiVersion"), "kind": data.get("kind"), "metadata": name}
        spec = data.get("spec")
        if isinstance(spec, dict) and (whom := {one: spec[one] for one in ("targetRefs", "parentRefs") if one in spec}):
            left["spec"] = whom
        return left
    result = dict(data)
    if isinstance(metadata, dict) and "managedFields" in metadata:
        result["metadata"] = {key: value for key, value in metadata.items() if key != "managedFields"}
    kept = _KEPT.get(kind)
    if kept is not None:
        for name, below in kept.items():
            if name in result:
                result[name] = _kept_of(result[name], below)
    elif isinstance(result.get("status"), dict):
        result["status"] = {}
    return result


def _kept_of(value: Any, kept: _Kept | None) -> Any:
    if kept is None:
        return value
    if isinstance(value, list):
        return [_kept_of(one, kept) for one in value]
    if not isinstance(value, dict):
        return value
    # What is no word stays, for those who refuse it.
    return {key: _kept_of(value[key], kept.get(key)) for key in value if key in kept or not isinstance(key, str)}
