"""Which requests are traced, and how their spans are tagged, as a connection manager and its routes say it.

Source: Envoy source/common/http/conn_manager_utility.cc (mutateTracingRequestHeader), source/common/tracing
(custom_tag_impl.cc).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from ..request_id import NAME
from ..resources.tracing import CustomTag, RequestIds, Share, TagSource, Tracing
from .formatter import FormatContext, compile_format
from .request_head import RequestHead
from .request_ids import NOT_TRACED, number_of, reason_of, with_reason

__all__ = ["CompiledTracing", "Traced", "compile_tracing"]

RandomFraction = Callable[[], float]
Tags = dict[str, str]

_SAMPLED, _FORCED, _ASKED_FOR = "9", "a", "b"
_FULL_SHARE = 10_000

# What somebody else has said, as a tag's value.
_MAX_TAG_LENGTH = 1024


class Traced(Struct, frozen=True):
    """What was decided of one request's trace.

    Attributes:
        is_sampled: Its spans are told, where no parent has decided that already.
        tracing: That has decided it.
    """

    is_sampled: bool
    tracing: CompiledTracing


class CompiledTracing:
    """Decides which requests are traced.

    Args:
        tracing: The connection manager's.
        ids: The connection manager's.
        of_route: What takes the place of its shares, and adds tags.
        where: For messages.

    Attributes:
        is_off: Nothing may be sampled: no span is made at all, and whatever context there is goes on as it is.
        max_path_length: Of the path in http.url.

    Raises:
        ResourceError: A tag's format string is wrong.
    """

    def __init__(self, tracing: Tracing, ids: RequestIds, of_route: Tracing | None, where: str) -> None:
        shares = of_route or tracing
        self._client, self._random, self._overall = shares.client, shares.random, shares.overall
        self._ids = ids
        self.is_off = not self._overall.numerator
        self.max_path_length = tracing.max_path_length
        tags = {tag.name: tag for tag in tracing.tags}
        if of_route is not None:
            tags.update((tag.name, tag) for tag in of_route.tags)
        self._steady: Tags = {}
        self._by_request: list[tuple[str, str, Callable[[FormatContext], str]]] = []
        for tag in tags.values():
            if tag.source is TagSource.LITERAL:
                value = tag.value
            elif tag.source is TagSource.ENVIRONMENT:
                value = os.environ.get(tag.value, tag.default)
            else:
                self._by_request.append((tag.name, tag.default, _compile_tag(tag, where)))
                continue
            if value:
                self._steady[tag.name] = value

    def decide(
        self, head: RequestHead, random_fraction: RandomFraction, *, may_force: bool = False
    ) -> tuple[RequestHead, Traced]:
        """The request with an id that says whether it is traced, and whether it is.

        Args:
            head: The request.
            random_fraction: Uniform in [0, 1).
            may_force: x-envoy-force-trace counts, since the request comes from inside.
        """
        if not self._ids.decides_sampling:
            return head, Traced(True, self)
        request_id = head.header("x-request-id") or ""
        number = number_of(request_id)
        if number is None:
            return head, Traced(False, self)
        number %= _FULL_SHARE
        reason = reason_of(request_id)
        if not reason:
            if head.header("x-client-trace-id") is not None and _is_in(self._client, random_fraction):
                reason = _ASKED_FOR
            elif may_force and head.header("x-envoy-force-trace") is not None:
                reason = _FORCED
            elif number % self._random.denominator < self._random.numerator:
                reason = _SAMPLED
        mark = reason
        if reason and number % self._overall.denominator >= self._overall.numerator:
            reason, mark = "", NOT_TRACED
        if mark and self._ids.packs_reason:
            changed = with_reason(request_id, mark)
            if changed != request_id:
                head = head.replacing(NAME, changed.encode("latin-1", "replace"))
        return head, Traced(bool(reason), self)

    def tags(self, context: FormatContext) -> Tags:
        """The tags of one request's span; a value that is not there makes none."""
        if not self._by_request:
            return self._steady
        tags = self._steady.copy()
        for name, default, read in self._by_request:
            value = read(context) or default
            if value:
                tags[name] = value[:_MAX_TAG_LENGTH]
        return tags


def compile_tracing(
    tracing: Tracing | None, ids: RequestIds, of_route: Tracing | None = None, where: str = "tracing"
) -> CompiledTracing | None:
    """See `CompiledTracing`; None where the connection manager traces nothing, whatever routes say."""
    return CompiledTracing(tracing, ids, of_route, where) if tracing is not None else None


def _is_in(share: Share, random_fraction: RandomFraction) -> bool:
    return random_fraction() * share.denominator < share.numerator


def _compile_tag(tag: CustomTag, where: str) -> Callable[[FormatContext], str]:
    if tag.source is TagSource.HEADER:
        return lambda context: context.head.first_header(tag.value) or ""
    if tag.source is TagSource.FORMAT:
        return compile_format(tag.value, f"{where} custom tag {tag.name}", missing="")
    read = _METADATA[tag.source]
    return lambda context: _at(read(context), tag)


_METADATA: dict[TagSource, Callable[[FormatContext], Mapping[str, Mapping[str, Any]] | None]] = {
    TagSource.REQUEST_METADATA: lambda context: context.dynamic_metadata,
    TagSource.ROUTE_METADATA: lambda context: context.route_metadata,
    TagSource.CLUSTER_METADATA: lambda context: context.cluster_metadata,
    TagSource.HOST_METADATA: lambda context: context.upstream_metadata,
}


def _at(metadata: Mapping[str, Mapping[str, Any]] | None, tag: CustomTag) -> str:
    """A value in metadata as text: whole structures are JSON."""
    value: Any = (metadata or {}).get(tag.value)
    for key in tag.path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)
