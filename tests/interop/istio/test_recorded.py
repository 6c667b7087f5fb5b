"""meshsdk's translation of the corpus against what istiod made of it, as recorded (`make record-istiod`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from .case import Case, read_corpus
from .compare import Difference, compare
from .istiod import RECORDED, load_recorded
from .known import KNOWN, Known, explain, kinds, not_yet

CASES = {case.name: case for case in read_corpus()}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_means_what_it_means_to_istiod(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = _compared(case, tmp_path)
    expected = not_yet()
    missing = expected.get(name, set()) - found.keys()
    assert not missing, f"right by now, so not_yet.txt need not say otherwise of {name}: {sorted(missing)}"
    unknown = {
        kind: one for kind, one in found.items() if kind not in expected.get(name, set()) | expected.get("*", set())
    }
    assert not unknown, "\n".join(str(one[0]) for one in unknown.values())


def _differences(case: Case, folder: Path) -> list[Difference]:
    answer = load_recorded(case)
    assert answer is not None, f"istiod's answer to {case.name} is not recorded: make record-istiod"
    return compare(case, case.write(folder), answer).differences


def _compared(case: Case, folder: Path) -> dict[str, list[object]]:
    differences = _differences(case, folder)
    return {kind: [*ones] for kind, ones in kinds(differences).items()}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.case)
def test_a_difference_that_is_meant_is_met_in_the_corpus(known: Known, tmp_path: Path) -> None:
    assert known.name in {explain(one) for one in _differences(CASES[known.case], tmp_path)}


def test_every_difference_that_is_meant_is_explained() -> None:
    text = (Path(__file__).parents[3] / "docs" / "istio-differences.md").read_text()
    assert [known.name for known in KNOWN if f"## {known.name}\n" not in text] == []


def test_every_recorded_answer_belongs_to_a_case() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == CASES.keys()
