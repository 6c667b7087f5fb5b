"""`python -m tests.stories [NAME …]`: each story from the built wheel, in a fresh virtual environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .kept import ROOT, STORIES, lay_out, titled

_SECONDS = 600.0  # for one command, downloads included


class Stopped(Exception):
    """A command has failed; its output is in a file."""


def _run(command: Sequence[str | Path], log: Path, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("ab") as output:
        done = subprocess.run(
            command, cwd=cwd, env=environment, stdout=output, stderr=output, timeout=_SECONDS, check=False
        )
    if done.returncode != 0:
        raise Stopped(f"{log} ends with:\n{log.read_text()[-4000:]}")


def _wheel(folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    _run((*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", ROOT), folder / "wheel.log", folder)
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


def _environment(name: str, wheel: Path, folder: Path) -> Path:
    """A virtual environment with what the story's requirements name, in which meshsdk is the wheel."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    requirements = folder / "requirements.txt"
    lines = (folder / name / "requirements.txt").read_text().splitlines(keepends=True)
    requirements.write_text("".join(re.sub(r"^(meshsdk\[.*\])$", rf"\1 @ {wheel.as_uri()}", line) for line in lines))
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--requirement", requirements)
    _run(pip, folder / "install.log", folder)
    check = "import meshsdk, sys; sys.exit(not meshsdk.__file__.startswith(sys.prefix) and meshsdk.__file__)"
    _run((python, "-c", check), folder / "install.log", folder / name)
    return python


def _tell(name: str, wheel: Path, folder: Path, progress: Progress, task: TaskID) -> str:
    """Tell one story; why it has failed, or nothing."""
    folder.mkdir()
    laid_out = lay_out(name, folder / name)
    try:
        progress.update(task, doing="makes an environment")
        python = _environment(name, wheel, folder)
        progress.update(task, doing="is told")
        _run((python, "story.py"), folder / "story.log", laid_out)
    except (Stopped, subprocess.TimeoutExpired) as failure:
        progress.update(task, doing="[red]failed", total=1, completed=1)
        return str(failure)
    progress.update(task, doing="[green]holds", total=1, completed=1)
    return ""


def _steps(name: str, folder: Path) -> list[tuple[str, float, bool]]:
    path = folder / name / "steps.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(step["step"], step["seconds"], step["failed"]) for step in map(json.loads, lines)]


def _table(name: str, seconds: float, folder: Path) -> Table:
    table = Table(title=f"{titled(name)} {seconds:.0f} s", title_justify="left", title_style="bold", expand=True)
    table.add_column("step", ratio=1)
    table.add_column("seconds", justify="right")
    for step, took, failed in _steps(name, folder):
        table.add_row(f"[red]{step}" if failed else step, f"{took:.1f}")
    return table


def main(names: Sequence[str]) -> int:
    """Tell the stories named, or all; 1 where one fails."""
    console = Console()
    if unknown := sorted(set(names) - set(STORIES)):
        console.print(f"there is no story {', '.join(unknown)}; there are {', '.join(STORIES)}")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="meshsdk-stories-"))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[doing]}"))
    failures, seconds = {}, {}
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("wheel", total=1, doing="is built")
        wheel = _wheel(folder)
        progress.update(task, doing=wheel.name, completed=1)
        for name in names or STORIES:
            start = time.monotonic()
            task = progress.add_task(name, total=None, doing="")
            failures[name] = _tell(name, wheel, folder / name, progress, task)
            seconds[name] = time.monotonic() - start
    for name, failure in failures.items():
        console.print(_table(name, seconds[name], folder / name))
        if failure:
            console.print(failure, markup=False, highlight=False, soft_wrap=True)
    console.print(f"what was printed, and the environments, are in {folder}")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
