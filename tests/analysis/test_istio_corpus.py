"""Istio's published analyzer inputs: what concerns us is found, and nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from meshsdk.analysis import RULES, Place, Report, analyze

from . import istio_corpus as corpus

FOUND = corpus.found_by_istio()
DOCS = Path(__file__).parent.parent.parent / "docs"


def name_of(place: Place) -> str:
    return f"{place.kind} {place.namespace}/{place.name}"


@cache
def report_of(path: Path) -> Report:
    return analyze([path])


def files() -> list[object]:
    return [pytest.param(path, id=name) for name, path in corpus.published_inputs().items() if name in FOUND["files"]]


@pytest.mark.parametrize("path", files())
def test_what_istio_finds_is_found(path: Path) -> None:
    report = report_of(path)
    codes: dict[str, set[str]] = {}
    for one in report.findings:
        for place in (one.place, *one.others):
            codes.setdefault(name_of(place), set()).add(one.code)
    of_gateways = corpus.for_gateways(path)
    for code, objects in FOUND["files"][path.name].items():
        for name in objects:
            is_ours = name.partition(" ")[0] not in corpus.NOT_OURS and name not in of_gateways
            if code in corpus.NO_CONCERN or not is_ours or (path.name, name, code) in corpus.NOT_FOUND:
                continue
            wanted = corpus.FOUND_AS[code]
            assert codes.get(name, set()) & set(wanted), f"{code} of {name} is not found as any of {wanted}"


@pytest.mark.parametrize("path", files())
def test_nothing_is_found_where_istio_finds_nothing(path: Path) -> None:
    by_object: dict[str, set[str]] = {}
    for code, objects in FOUND["files"][path.name].items():
        for name in objects:
            by_object.setdefault(name, set()).update(corpus.FOUND_AS.get(code, ()))
    for one in report_of(path).findings:
        if one.code in corpus.ONLY_OURS or (path.name, one.code) in corpus.ONLY_OURS_OF:
            continue
        for place in (one.place,) if one.place.name else one.others:
            assert one.code in by_object.get(name_of(place), ()), f"{one.code} of {name_of(place)}: {one.text}"


def test_each_message_of_istios_is_found_or_said_to_be_of_no_concern() -> None:
    assert corpus.FOUND_AS.keys().isdisjoint(corpus.NO_CONCERN)
    assert {*corpus.FOUND_AS, *corpus.NO_CONCERN} == set(FOUND["messages"])
    assert {code for codes in corpus.FOUND_AS.values() for code in codes} <= RULES.keys()


def test_rules_name_the_codes_that_they_are_found_by() -> None:
    of_rules = {(code, one.code) for one in RULES.values() for code in one.istio}
    assert of_rules == {(code, ours) for code, several in corpus.FOUND_AS.items() for ours in several}


def test_the_page_has_each_rule_and_each_message_of_istios() -> None:
    page = (DOCS / "check.md").read_text()
    assert [code for code in RULES if f"`{code}`" not in page] == []
    assert [code for code in FOUND["messages"] if code not in page] == []


def test_what_is_kept_here_has_a_reason_to_be() -> None:
    """Nothing is said of files or findings that are not there."""
    assert {path.stem for path in corpus.INPUTS.glob("*.yaml")} == set(corpus.KEPT)
    for file, name, code in corpus.NOT_FOUND:
        assert name in FOUND["files"][file][code]
