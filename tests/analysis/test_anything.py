"""Whatever stands in a file, a report comes of it."""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshsdk.analysis import analyze

from .istio_corpus import INPUTS
from .repositories import BOOKINFO
from .test_findings import CASES, MESH

JUNK: list[Any] = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    [],
    {},
    [None],
    ["x"],
    [{}],
    {"x": {}},
    {True: 1, "a": 2},
    "a\nb: c",
]


@cache
def documents() -> list[Any]:
    texts = [MESH + case[1] for case in CASES if case[0] != "unreadable"]
    texts += [path.read_text() for folder in (INPUTS, BOOKINFO / "networking") for path in folder.glob("*.yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every value below a document, by what holds it and where."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.parametrize("seed", range(12))
def test_a_report_comes_of_objects_with_anything_in_them(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    every = [copy.deepcopy(chance.choice(documents())) for _ in range(60)]
    for one in every:
        for _ in range(chance.choice((1, 1, 2, 5))):
            holder, key = chance.choice(places(one))
            holder[key] = copy.deepcopy(chance.choice(JUNK))
    for number, one in enumerate(every):
        (tmp_path / f"{number // 10}.yaml").open("a").write(f"---\n{yaml.safe_dump(one)}")
    report = analyze([tmp_path])
    assert report.to_dict()["findings"], "there is something wrong with it"


@pytest.mark.parametrize(
    "text", ["", "\n", "---\n---\n", "5", "[]", "{", "\x00", "a: {{ b }}", "kind: List\nitems: 5\n"]
)
def test_a_report_comes_of_any_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "mesh.yaml").write_text(text)
    analyze([tmp_path, tmp_path / "mesh.yaml", tmp_path / "nowhere"]).to_dict()
