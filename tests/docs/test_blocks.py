"""Each block of the pages runs as it is printed, or is held to what can be said of it without running it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.testing.runs import run_pytest

from .manifests import check_alone
from .pages import PAGES, PROJECT, ROOT, Block, blocks_of, name_of
from .runner import PageRun

BLOCKS = [block for page in PAGES for block in blocks_of(page)]

# What a page tells to type that does not run here, and why.
NOT_RUN = {
    "pip": "fetches packages; the extras that it names are ours",
    "kubectl": "needs a cluster; the folders that it names are ours",
    "istioctl": "needs a cluster",
    "make": "is for a clone, and may take long; the target is there",
    "curl": "asks a server that is the reader's own",
}
# Pages whose blocks belong together in another way, and the test that holds them to it.
ELSEWHERE = {"docs/check.md": "tests/analysis/test_page.py", "docs/httpx.md": "tests/http/test_documented.py"}
# Pictures of letters.
DRAWINGS = {"docs/architecture.md"}


def kind_of(block: Block) -> str:
    """What is done with a block; empty where nothing is known to do."""
    if name_of(block.page) in ELSEWHERE:
        return "elsewhere"
    if block.language == "python" and re.search(r"^(async )?def test_", block.text, re.M):
        return "pytest"
    if block.title or block.language in ("python", "console"):
        return "run"
    if block.language in ("yaml", "json"):
        return "alone"
    if block.language == "sh":
        return "not run"
    return "drawing" if block.language == "text" and name_of(block.page) in DRAWINGS else ""


def of_kind(kind: str) -> list[Block]:
    return [block for block in BLOCKS if kind_of(block) == kind]


def test_no_block_is_left_out() -> None:
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())
    assert [str(block) for block in BLOCKS if not kind_of(block)] == []
    assert len(of_kind("run")) > 20


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.title.endswith(".py")], ids=str)
def test_a_program_on_a_page_is_run_or_imported_there(block: Block) -> None:
    name = Path(block.title).stem
    others = [one.text for one in blocks_of(block.page) if one != block]
    used = rf"^(?:\$|  ).*\b({name}|gunicorn)\b|^(from|import) {name}\b"
    assert any(re.search(used, text, re.M) for text in others)


@pytest.mark.parametrize("page", sorted({block.page for block in of_kind("run")}), ids=name_of)
def test_a_page_runs_as_it_is_printed(page: Path, tmp_path: Path) -> None:
    blocks = [block for block in of_kind("run") if block.page == page]
    with PageRun(blocks, tmp_path) as run:
        for block in blocks:
            run.run(block)


def test_tests_on_the_pages_pass(tmp_path: Path) -> None:
    blocks = of_kind("pytest")
    for number, block in enumerate(blocks):
        (tmp_path / f"test_example_{number}.py").write_text(block.text)
    # One is in two variants. On two workers, as teams run their tests.
    count = sum(len(re.findall(r"^(?:async )?def test_", block.text, re.M)) for block in blocks) + 1
    assert f"{count} passed" in run_pytest(tmp_path, "-n", "2")
    assert len(blocks) >= 10


@pytest.mark.parametrize("block", of_kind("alone"), ids=str)
def test_objects_and_bootstraps_are_right(block: Block) -> None:
    check_alone(block.text)


def test_the_manifest_of_a_page_has_all_that_the_component_adds() -> None:
    component = yaml.safe_load((ROOT / "integrations/kubernetes/components/sdk/pods.yaml").read_text())
    pages = [one for block in of_kind("alone") for one in yaml.safe_load_all(block.text)]
    [deployment] = [one for one in pages if one.get("kind") == "Deployment"]
    added, printed = (one["spec"]["template"] for one in (component, deployment))
    assert added["metadata"]["labels"].items() <= printed["metadata"]["labels"].items()
    assert added["spec"]["volumes"] == printed["spec"]["volumes"]
    assert added["spec"]["securityContext"] == printed["spec"]["securityContext"]
    [own], [other] = added["spec"]["containers"], printed["spec"]["containers"]
    assert own["volumeMounts"] == other["volumeMounts"]
    assert all(variable in other["env"] for variable in own["env"])


@pytest.mark.parametrize("block", of_kind("not run"), ids=str)
def test_what_does_not_run_here_is_known_to_be_right(block: Block) -> None:
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for command in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        assert words[0] in NOT_RUN, f"{words[0]}: run it in a `console`, or say why not"
        for word in words[1:]:
            assert is_ours(words[0], word, block.page), word


def is_ours(program: str, word: str, page: Path) -> bool:
    """Whether what a command names is there, as far as it names something of ours."""
    extras = re.fullmatch(r"(?:meshsdk|\.)\[([\w,]+)\]", word) if program == "pip" else None
    if extras:
        return set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
    if program == "make" and not word.startswith("-"):
        return re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.M) is not None
    if program == "kubectl" and word.startswith(("overlays/", "policies", "base")):
        return (ROOT / "integrations" / "kubernetes" / word).is_dir()
    return True
