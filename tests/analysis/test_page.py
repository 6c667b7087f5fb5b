"""docs/check.md: what it prints is what is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshsdk.analysis import RULES
from meshsdk.cli.commands import app

PAGE = Path(__file__).parent.parent.parent / "docs" / "check.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
FILES = {text.split("\n", 1)[0].removeprefix("# "): text for kind, text in BLOCKS if kind == "yaml"}
COMMANDS = [text for kind, text in BLOCKS if kind == "console"]


def run(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command)[1:], env={"NO_COLOR": "1"})
    return result.stderr + result.stdout


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.split("\n", 1)[0])
def test_commands_print_what_stands_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    prompt, printed = block.split("\n", 1)
    assert run(prompt.removeprefix("$ ")) == printed


def test_the_table_has_each_kind_of_finding_as_it_is() -> None:
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    cells = {row.split("|")[1].strip(" `"): [one.strip() for one in row.split("|")[2:-1]] for row in rows}
    for rule in RULES.values():
        assert cells[rule.code] == [rule.severity.value, rule.summary, rule.cure, ", ".join(rule.istio)]
