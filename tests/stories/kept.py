"""Where the stories are, and how one is laid out in an empty folder, with nothing of the repository beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["ROOT", "STORIES", "lay_out", "titled"]

_HERE = Path(__file__).parent
ROOT = _HERE.parent.parent
STORIES = sorted(path.parent.name for path in _HERE.glob("*/story.py"))


def lay_out(name: str, folder: Path) -> Path:
    """Copy a story's files, and what stories are told with, to a folder that is not there yet."""
    shutil.copytree(_HERE / name, folder, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    shutil.copy(_HERE / "telling.py", folder)
    return folder


def titled(name: str) -> str:
    """A story's first line, which says who the user is."""
    return (_HERE / name / "story.py").read_text().partition('"""')[2].partition('"""')[0].strip()
