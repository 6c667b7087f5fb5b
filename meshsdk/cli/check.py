"""`meshsdk check`: what `meshsdk.analysis` finds, for people, for programs (JSON) and for CI (SARIF).

Exits with 0 where nothing is wrong or there are warnings only, with 1 if there are errors, or, with `--strict`,
warnings, and with 2 where it was asked for wrongly.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from ..analysis import Finding, Report, Severity

__all__ = ["check"]

_STDIN = "-"
_STDIN_FILE = "stdin.yaml"
# Of one kind of finding without a cure of its own each, people read so many.
_MOST_OTHERS = 5

PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Files and folders of YAML: Kubernetes, Istio, raw xDS; `-` for standard input. They count as one.",
    ),
]


def check(
    paths: PathsArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="SARIF 2.1.0, as code scanning takes it.")] = False,
) -> None:
    """Find what is wrong with files and folders, and what is hardly meant; exits with 1 if anything is wrong."""
    from ..analysis import Severity

    if as_json and as_sarif:
        raise typer.BadParameter("give --json or --sarif")
    report = _analyzed(paths)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    elif as_sarif:
        from .sarif import to_sarif

        typer.echo(json.dumps(to_sarif(report), indent=2, ensure_ascii=False))
    else:
        _print(report)
    if report.of(Severity.ERROR) or (strict and report.of(Severity.WARNING)):
        raise typer.Exit(1)


def _analyzed(paths: list[Path]) -> Report:
    from ..analysis import analyze

    if Path(_STDIN) not in paths:
        return analyze(paths)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _STDIN_FILE
        file.write_bytes(sys.stdin.buffer.read())
        report = analyze([file if str(path) == _STDIN else path for path in paths])
        return report.without_folder(folder)


def _print(report: Report) -> None:
    """Errors to standard error, the rest to standard output; lines are not cut, whatever the terminal's width."""
    from ..analysis import Severity

    out, errors = Console(), Console(stderr=True)
    looks = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
    for code in dict.fromkeys((one.severity, one.code) for one in report.findings):
        severity = code[0]
        same = [one for one in report.findings if (one.severity, one.code) == code]
        console = errors if severity is Severity.ERROR else out
        _print_rule(console, severity, same, looks[severity])
    for line in _left(report):
        _say(out, Text(line))
    _print_sum(report, out)


def _print_rule(console: Console, severity: Severity, findings: list[Finding], look: str) -> None:
    from ..analysis import RULES

    rule = RULES[findings[0].code]
    istio = f", {', '.join(rule.istio)}" if rule.istio else ""
    _say(console, Text.assemble((severity.value, look), f": {rule.summary} ", (f"[{rule.code}{istio}]", "dim")))
    for one in findings:
        line = f" (line {one.place.line})" if one.place.line else ""
        where = f"{one.place}: " if one.place.file else ""
        _say(console, Text(f"  {where}{one.text}{line}"))
        if one.place.file and one.others:
            _say(console, Text(f"    see {_shown(map(str, one.others))}", "dim"))
    _say(console, Text.assemble(("  → ", "bold"), rule.cure))


def _shown(names: Iterable[str]) -> str:
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - _MOST_OTHERS} more" if len(every) > _MOST_OTHERS else ""
    return ", ".join(every[:_MOST_OTHERS]) + more


def _left(report: Report) -> Iterable[str]:
    for one in report.left_out:
        render = f"; render them: {one.render}" if one.render else ""
        yield f"left out: {one.what}, {_shown(one.files)}{render}"
    if report.not_ours:
        kinds = ", ".join(f"{count} {_plural(kind, count)}" for kind, count in report.not_ours.items())
        documents, files = sum(report.not_ours.values()), report.not_ours_files
        of_what = f"{documents} {_plural('document', documents)} in {files} {_plural('file', files)}"
        yield f"not ours: {kinds} ({of_what})"


def _plural(word: str, count: int) -> str:
    first, space, rest = word.partition(" ")
    if count == 1 or "." in first or first.startswith("*"):
        return word
    ending = (
        "ies" if first.endswith("y") and first[-2:-1] not in "aeiou" else "es" if first.endswith(("s", "ss")) else "s"
    )
    return f"{first[:-1] if ending == 'ies' else first}{ending}{space}{rest}"


def _print_sum(report: Report, console: Console) -> None:
    from ..analysis import Severity

    counts = [(len(report.of(one)), one.value) for one in Severity]
    found = ", ".join(f"{count} {_plural(name, count) if name != 'info' else name}" for count, name in counts if count)
    if report.of(Severity.ERROR):
        _say(console, Text(found))
        return
    shown = ", ".join(f"{count} {name}" for name, count in report.resources.items()) or "no resources"
    _say(console, Text(f"ok: {shown}" + (f"; {found}" if found else "")))


def _say(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)
