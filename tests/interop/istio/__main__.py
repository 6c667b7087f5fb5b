"""The comparison with the real istiod, and the recording of its answers."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import istiod
from .case import Case, read_corpus
from .compare import Comparison, compare
from .generate import generated
from .inbound import key_server
from .known import NOT_YET, explain, kinds, lines_for, not_yet
from .view import Profile

CORPUS_NAMES = frozenset(case.name for case in read_corpus())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.istio", description=__doc__)
    parser.add_argument("what", choices=["compare", "record", "not-yet"])
    parser.add_argument("cases", nargs="*", help="names of cases; default: the whole corpus, and generated folders")
    parser.add_argument("--generated", type=int, default=0, help="how many random folders are compared as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", choices=["grpc", "sidecar", "client"], default="grpc", help="of routes")
    parser.add_argument("--show", type=int, default=3, help="differences told of each kind")
    arguments = parser.parse_args()
    program = istiod.build()
    if program is None:
        print("there is no Go on this machine", file=sys.stderr)
        return 2
    cases = read_corpus(arguments.cases)
    with key_server():
        if arguments.what == "record":
            return _record(program, cases)
        if arguments.what == "not-yet":
            return _write_not_yet(program, cases)
        cases += generated(arguments.generated, arguments.seed)
        return _compare(program, cases, arguments.show, arguments.profile)


def _record(program: Path, cases: list[Case]) -> int:
    version = istiod.version(program)
    with tempfile.TemporaryDirectory() as folder:
        asked = [(case, case.write(Path(folder))) for case in cases]
        for case, answer in zip(cases, istiod.ask(program, asked), strict=True):
            istiod.save_recorded(case, answer, version)
            if answer.error:
                print(f"{case.name}: refused: {answer.error}")
    return 0


def _compared(program: Path, cases: list[Case], profile: Profile = "grpc") -> Iterator[tuple[Case, Comparison]]:
    with tempfile.TemporaryDirectory() as folder:
        asked = [(case, case.write(Path(folder))) for case in cases]
        for (case, path), answer in zip(asked, istiod.ask(program, asked), strict=True):
            limit = 160 if case.name in CORPUS_NAMES else 40
            yield case, compare(case, path, answer, limit, profile)


def _compare(program: Path, cases: list[Case], shown: int, profile: Profile) -> int:
    began = time.monotonic()
    decisions = clusters = verdicts = meant = 0
    expected = not_yet()
    tolerated = {kind for kinds_of_case in expected.values() for kind in kinds_of_case}
    told: Counter[str] = Counter()
    for case, comparison in _compared(program, cases, profile):
        decisions += comparison.decisions
        clusters += comparison.clusters
        verdicts += comparison.verdicts
        meant += sum(bool(explain(one)) for one in comparison.differences)
        # Of folders that chance made it is only known which kinds are not right yet.
        if profile == "client":
            expected, tolerated = {}, set()
        allowed = expected.get(case.name, set()) | expected.get("*", set()) if case.name in CORPUS_NAMES else tolerated
        for kind, ones in kinds(comparison.differences).items():
            told[f"{'not yet' if kind in allowed else 'new'}: {kind}"] += len(ones)
            for one in ones[:1] if kind not in allowed else ():
                if told[f"new: {kind}"] <= shown * len(ones):
                    print(f"[{case.name}] {one}\n")
                    if case.name not in CORPUS_NAMES:
                        print(case.text)
    for kind, number in sorted(told.items()):
        print(f"{number:6} {kind}")
    print(
        f"{len(cases)} folders, {decisions} decisions, {clusters} clusters, {verdicts} verdicts, {meant} differences"
        f" that are meant, {time.monotonic() - began:.0f} s"
    )
    return 1 if any(kind.startswith("new") for kind in told) else 0


def _write_not_yet(program: Path, cases: list[Case]) -> int:
    found = {case.name: kinds(comparison.differences) for case, comparison in _compared(program, cases)}
    everywhere = not_yet().get("*", set())
    NOT_YET.write_text(lines_for(found, everywhere))
    return 0


if __name__ == "__main__":
    sys.exit(main())
