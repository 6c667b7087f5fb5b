"""Where a process's identity comes from: files, Istio's CA, an agent (SDS or SPIFFE), or a CA for development.

Each is a `security.Identity`: it gives whole, checked credentials, renews them long before they expire, and keeps the
last good ones in use while renewal fails. Keys are made in memory and stay there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .development import DevelopmentIdentity
    from .files import FileIdentity
    from .istio_ca import IstioCaIdentity
    from .sds import SdsIdentity
    from .workload_api import WorkloadApiIdentity

# Some need gRPC, which nobody loads who uses none of them.
_MODULES = {
    "DevelopmentIdentity": "development",
    "FileIdentity": "files",
    "IstioCaIdentity": "istio_ca",
    "SdsIdentity": "sds",
    "WorkloadApiIdentity": "workload_api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


__all__ = ["DevelopmentIdentity", "FileIdentity", "IstioCaIdentity", "SdsIdentity", "WorkloadApiIdentity"]
