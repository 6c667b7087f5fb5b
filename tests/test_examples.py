"""Every example runs, with one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import CLEAN_ENVIRONMENT


def test_bookinfo_shows_what_its_yaml_says() -> None:
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-m", "examples.bookinfo"],
        cwd=root,
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "each as the YAML says" in result.stdout
