"""The five stories, on this interpreter; `make stories` tells them from a wheel, in fresh environments."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from ..processes import CLEAN_ENVIRONMENT
from .kept import STORIES, lay_out


@pytest.mark.parametrize("name", STORIES)
def test_the_story_is_lived_as_the_documentation_tells_it(name: str, tmp_path: Path) -> None:
    if name == "notebook_user" and importlib.util.find_spec("nbclient") is None:
        pytest.skip("nbclient is not installed")
    folder = lay_out(name, tmp_path / name)
    told = subprocess.run(
        [sys.executable, "story.py"],
        cwd=folder,
        env=CLEAN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert (folder / "steps.jsonl").read_text().count('"failed": false') >= 4
