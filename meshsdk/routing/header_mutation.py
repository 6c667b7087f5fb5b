"""Header changes, compiled to levels in Envoy's order (Envoy docs, http_conn_man/headers).

By default the most specific level comes first (weighted cluster, route, virtual host, route configuration), so the
least specific has the last word; most_specific_header_mutations_wins turns that round. Each level removes, then
replaces, then adds (source/common/router/header_parser.cc, HeaderParser::evaluateHeaders); its values see the headers
as the levels before left them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from msgspec import Struct

from ..resources import AppendAction, HeaderMutations
from .formatter import FormatContext, Formatter, compile_format

__all__ = ["HeaderList", "MutationLevel", "apply_mutations", "compile_mutations"]

HeaderList = list[tuple[bytes, bytes]]


class Addition(Struct, frozen=True):
    """A header to set to a value."""

    name: bytes
    action: AppendAction
    value: Formatter
    keep_empty: bool = False


class MutationLevel(Struct, frozen=True):
    """What one level removes and adds.

    Attributes:
        of_filter: It is a filter's, and sees responses as they leave the router.
    """

    remove: frozenset[bytes]
    additions: tuple[Addition, ...]
    of_filter: bool = False


def compile_mutations(
    levels: Iterable[HeaderMutations], where: str, *, of_filters: bool = False
) -> tuple[MutationLevel, ...]:
    """Several levels, in the order given; empty ones are left out.

    Raises:
        ResourceError: A value's format is wrong.
    """
    return tuple(
        MutationLevel(
            frozenset(name.encode("latin-1") for name in level.remove),
            tuple(
                Addition(
                    one.name.encode("latin-1"),
                    one.action,
                    compile_format(one.value, f"{where} header {one.name}"),
                    one.keep_empty_value,
                )
                for one in level.add
            ),
            of_filters,
        )
        for level in levels
        if level
    )


def apply_mutations(
    levels: Sequence[MutationLevel],
    headers: Sequence[tuple[bytes, bytes]],
    context: FormatContext,
    *,
    of_request: bool = False,
) -> HeaderList:
    """A new header list with all levels carried out. Names are compared without case.

    Args:
        levels: What to do.
        headers: What to do it to.
        context: Gives the values.
        of_request: Whether these are the request's headers; otherwise they are the response's. Later levels see what
            earlier ones did.
    """
    result = list(headers)
    for level in levels:
        if level.remove:
            result = [header for header in result if header[0].lower() not in level.remove]
        if of_request:
            context.head = context.head.with_headers(result)
        else:
            context.response_header = partial(_first_value, result)
        if level.additions:
            result = _added(level.additions, result, context)
    return result


def _first_value(headers: HeaderList, name: str) -> str | None:
    wanted = name.encode("latin-1", "replace")
    return next((value.decode("latin-1") for key, value in headers if key.lower() == wanted), None)


def _added(additions: Sequence[Addition], headers: HeaderList, context: FormatContext) -> HeaderList:
    replaced: dict[bytes, bytes] = {}
    added: HeaderList = []
    for addition in additions:
        value = addition.value(context).encode("latin-1", "replace")
        if not value and not addition.keep_empty:
            continue
        # A value may come from a request header; it must never be able to begin a new line.
        value = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
        name, action = addition.name, addition.action
        if action is AppendAction.APPEND_IF_EXISTS_OR_ADD:
            added.append((name, value))
        elif action is AppendAction.OVERWRITE_IF_EXISTS_OR_ADD:
            replaced[name] = value
        else:
            exists = any(one.lower() == name for one, _ in headers)
            if action is AppendAction.ADD_IF_ABSENT and not exists:
                added.append((name, value))
            elif action is AppendAction.OVERWRITE_IF_EXISTS and exists:
                replaced[name] = value
    if replaced:
        headers = [header for header in headers if header[0].lower() not in replaced]
        headers += replaced.items()
    return headers + added if added else headers
