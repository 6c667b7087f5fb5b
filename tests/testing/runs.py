"""Runs of pytest with the plugin, as teams have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import CLEAN_ENVIRONMENT

__all__ = ["run_pytest"]

ROOT = Path(__file__).parent.parent.parent


def run_pytest(folder: Path, *arguments: str) -> str:
    """A run of its own, with the plugin and without those of the machine."""
    plugins = ["-p", "meshsdk.testing.plugin", "-p", "anyio", "-p", "xdist"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *arguments, str(folder)],
        cwd=folder,
        env={
            **CLEAN_ENVIRONMENT,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
