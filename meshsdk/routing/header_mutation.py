"""Header changes, compiled to a flat list of steps in Envoy's order (Envoy docs, http_conn_man/headers).

By default the most specific level comes first (weighted cluster, route, virtual host, route configuration), so the
least specific has the last word; most_specific_header_mutations_wins turns that round. Each level removes, then adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..resources import AppendAction, HeaderMutations
from .formatter import FormatContext, Formatter, compile_format

__all__ = ["HeaderList", "MutationStep", "apply_mutations", "compile_mutations"]

HeaderList = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class MutationStep:
    """Remove a header, or set it to a value; `value` None removes."""

    name: bytes
    action: AppendAction
    value: Formatter | None
    keep_empty: bool = False


def compile_mutations(levels: Iterable[HeaderMutations], where: str) -> tuple[MutationStep, ...]:
    """All steps of several levels, in the order given.

    Raises:
        ResourceError: A value's format is wrong.
    """
    steps: list[MutationStep] = []
    for level in levels:
        for name in level.remove:
            steps.append(MutationStep(name.encode("latin-1"), AppendAction.OVERWRITE_IF_EXISTS, None))
        for addition in level.add:
            value = compile_format(addition.value, f"{where} header {addition.name}")
            steps.append(
                MutationStep(addition.name.encode("latin-1"), addition.action, value, addition.keep_empty_value)
            )
    return tuple(steps)


def apply_mutations(
    steps: Sequence[MutationStep], headers: Sequence[tuple[bytes, bytes]], context: FormatContext
) -> HeaderList:
    """A new header list with all steps carried out. Names are compared without case."""
    result = list(headers)
    for step in steps:
        if step.value is None:
            result = [header for header in result if header[0].lower() != step.name]
        else:
            _add(result, step, step.value(context).encode("latin-1", "replace"))
    return result


def _add(headers: HeaderList, step: MutationStep, value: bytes) -> None:
    if not value and not step.keep_empty:
        return
    # A value may come from a request header; it must never be able to begin a new line.
    value = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    exists = any(name.lower() == step.name for name, _ in headers)
    match step.action:
        case AppendAction.APPEND_IF_EXISTS_OR_ADD:
            headers.append((step.name, value))
        case AppendAction.ADD_IF_ABSENT:
            if not exists:
                headers.append((step.name, value))
        case AppendAction.OVERWRITE_IF_EXISTS_OR_ADD:
            _overwrite(headers, step.name, value)
        case AppendAction.OVERWRITE_IF_EXISTS:
            if exists:
                _overwrite(headers, step.name, value)


def _overwrite(headers: HeaderList, name: bytes, value: bytes) -> None:
    headers[:] = [header for header in headers if header[0].lower() != name]
    headers.append((name, value))
