"""Istio's own sources in Go's module cache, where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["istio_source"]


def _module_cache() -> Path:
    if named := os.environ.get("GOMODCACHE"):
        return Path(named)
    if go := shutil.which("go"):
        found = subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=False).stdout.strip()
        if found:
            return Path(found)
    return Path.home() / "go" / "pkg" / "mod"


def istio_source() -> Path | None:
    """The newest istio.io/istio of the cache that has what its tests read."""
    found = sorted(_module_cache().glob("istio.io/istio@*"))
    return next((one for one in reversed(found) if (one / "pkg/config/validation/testdata/crds").is_dir()), None)
