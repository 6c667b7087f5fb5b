"""The comparison with the real istiod, and the recording of its answers."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import istiod
from .case import Case, read_corpus
from .compare import Difference, compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.istio", description=__doc__)
    parser.add_argument("what", choices=["compare", "record"])
    parser.add_argument("cases", nargs="*", help="names of cases; default: the whole corpus, and generated folders")
    parser.add_argument("--generated", type=int, default=0, help="how many random folders are compared as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3, help="differences told of each fact")
    arguments = parser.parse_args()
    program = istiod.build()
    if program is None:
        print("there is no Go on this machine", file=sys.stderr)
        return 2
    cases = read_corpus(arguments.cases)
    if arguments.what == "record":
        return _record(program, cases)
    return _compare(program, cases, arguments.show)


def _record(program: Path, cases: list[Case]) -> int:
    version = istiod.version(program)
    with tempfile.TemporaryDirectory() as folder:
        asked = [(case, case.write(Path(folder))) for case in cases]
        for case, answer in zip(cases, istiod.ask(program, asked), strict=True):
            istiod.save_recorded(case, answer, version)
            if answer.error:
                print(f"{case.name}: refused: {answer.error}")
    return 0


def _compare(program: Path, cases: list[Case], shown: int) -> int:
    began = time.monotonic()
    decisions = clusters = verdicts = 0
    by_fact: Counter[str] = Counter()
    found: list[tuple[Case, Difference]] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = [(case, case.write(Path(folder))) for case in cases]
        for (case, path), answer in zip(asked, istiod.ask(program, asked), strict=True):
            comparison = compare(case, path, answer)
            decisions += comparison.decisions
            clusters += comparison.clusters
            verdicts += comparison.verdicts
            found += [(case, one) for one in comparison.differences]
    for case, one in found:
        by_fact[f"{case.name} {one.fact}"] += 1
        if by_fact[f"{case.name} {one.fact}"] <= shown:
            print(f"[{case.name}] {one}")
    print(
        f"{len(cases)} folders, {decisions} decisions, {clusters} clusters, {verdicts} verdicts,"
        f" {len(found)} differences, {time.monotonic() - began:.0f} s"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
