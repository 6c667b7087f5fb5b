"""A user's program is read by mypy --strict, as the user's own mypy reads it: nothing in it is Any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "typed" / "program.py"


def test_a_program_with_httpx_grpc_and_fastapi_is_clean_under_mypy_strict(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.read_text())
    command = [sys.executable, "-m", "mypy", "--strict", "--disallow-any-unimported", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout
