"""What configuration makes of the labels of metrics: the tags of istio.stats, compiled.

An expression that is one attribute (`request.method`, `request.headers['x-tenant']`) or a constant is evaluated here;
one that is more takes cel-cpp. What it fails at is `unknown`, as in Istio.

Sources: Envoy docs, advanced/attributes; contrib/istio/filters/http/istio_stats (Config, StreamOverrides::evaluate).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import ResourceError
from ..resources.istio_stats import METRICS, StatsConfig
from ..telemetry.istio_metrics import REQUEST_LABELS, STANDARD_LABELS, IstioMetrics
from ..telemetry.label_overrides import Expression, LabelOverrides, MetricChange
from ..telemetry.workload import NOBODY, Workload
from .cel import ROOTS, compile_with_roots
from .entry import Entry

__all__ = ["Seen", "compile_tags", "follow", "problem_of"]

Read = Callable[["Seen"], Mapping[str, Any]]

# Prometheus, data model: names of labels; `le` is the bounds' of histograms.
_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*\Z")
_LONGEST_NAME = 128
_MAX_TAGS = 32

_ATTRIBUTE = re.compile(r"""[a-z_]+(?:\.[A-Za-z_]+|\[\s*(?:'[^'\\]*'|"[^"\\]*")\s*\])*""")
_PART = re.compile(r"""\.?([A-Za-z_]+)|\[\s*['"]([^'"]*)['"]\s*\]""")
_TEXT = re.compile(r"""'[^'\\]*'|"[^"\\]*\"""")
_NUMBER = re.compile(r"-?\d+")


class Seen(NamedTuple):
    """What expressions are about.

    Attributes:
        entry: The request, as access logs are told of it.
        peer: Who is at the other end; None is not known.
    """

    entry: Entry
    peer: Workload | None


def _of_peer(seen: Seen) -> Mapping[str, Any]:
    """Envoy contrib/istio/filters/common/source/metadata_object.h, the tokens of fields."""
    peer = seen.peer or NOBODY
    return {
        "workload": peer.name,
        "namespace": peer.namespace,
        "cluster": peer.cluster,
        "service": peer.canonical_service,
        "revision": peer.canonical_revision,
        "app": peer.app,
        "version": peer.version,
    }


def _roots(node: Mapping[str, Any], *, is_server: bool) -> dict[str, Read]:
    def of_entry(read: Callable[[Entry], Mapping[str, Any]]) -> Read:
        return lambda seen: read(seen.entry)

    peer = "downstream_peer" if is_server else "upstream_peer"
    roots = {name: of_entry(read) for name, read in ROOTS.items()}
    return {
        **roots,
        "node": lambda seen: node,
        peer: _of_peer,
        "filter_state": lambda seen: {peer: _of_peer(seen)},
    }


def compile_tags(
    config: StatsConfig, node: Mapping[str, Any], problems: list[str], *, is_server: bool
) -> LabelOverrides | None:
    """What a filter makes of labels; None where that is nothing.

    Args:
        config: Of the filter.
        node: What is known of this process: id, cluster, metadata.
        problems: Where it is told what is refused; the label is then as it would be without.
        is_server: Whether it is about requests that come.
    """
    changes: dict[str, MetricChange] = {}
    expressions: list[Expression] = []
    known: dict[str, int] = {}
    roots = _roots(node, is_server=is_server)
    for index, metric in enumerate(config.metrics):
        path = f"{config.where}.metrics[{index}]"
        for name in (metric.name,) if metric.name else METRICS:
            change = changes.setdefault(name, MetricChange())
            change.is_dropped |= metric.is_dropped
            change.removed.update(metric.removed)
        for tag, text in () if metric.is_dropped else metric.values:
            where = f"{path}.dimensions[{tag!r}]"
            try:
                _check_tag(tag, where, len(known))
                if text not in known:
                    expressions.append(_compile(text, where, roots))
                    known[text] = len(expressions) - 1
            except ResourceError as error:
                if not metric.name or metric.name in METRICS:
                    problems.append(f"the label {tag} of metrics is left as it is: {error}")
                continue
            for name in (metric.name,) if metric.name else METRICS:
                changes[name].values[tag] = known[text]
    return LabelOverrides(changes, expressions, STANDARD_LABELS) if changes else None


def follow(
    metrics: IstioMetrics, configs: Iterable[tuple[StatsConfig, str, bool]], node: Mapping[str, Any]
) -> list[str]:
    """Configuration has changed.

    Args:
        metrics: That have the labels.
        configs: Of every listener that changes some; its name, and whether it is a server's.
        node: See `compile_tags`.

    Returns:
        What is refused.
    """
    problems: list[str] = []
    before, overrides = metrics.overrides, {}
    for config, name, is_server in configs:
        known = before.get(id(config))
        if known is None:
            refused: list[str] = []
            known = (config, compile_tags(config, node, refused, is_server=is_server))
            problems += [f"listener {name}: {problem}" for problem in refused]
        overrides[id(config)] = known
    metrics.overrides = overrides
    return problems


@lru_cache(256)
def problem_of(name: str, text: str) -> str:
    """What is wrong with a tag and the expression of its value, for people; empty where nothing is."""
    try:
        _check_tag(name, name, 0)
        _compile(text, name, {**_roots({}, is_server=False), **_roots({}, is_server=True)})
    except ResourceError as error:
        return error.problem
    return ""


def _check_tag(name: str, where: str, count: int) -> None:
    if not _NAME.match(name) or name == "le" or len(name) > _LONGEST_NAME:
        raise ResourceError(where, "is no name of a label")
    if name not in REQUEST_LABELS and count >= _MAX_TAGS:
        raise ResourceError(where, f"there are more than {_MAX_TAGS} expressions")


def _compile(text: str, where: str, roots: Mapping[str, Read]) -> Expression:
    text = text.strip()
    if not text:
        raise ResourceError(where, "there is no expression")
    if _TEXT.fullmatch(text):
        constant = text[1:-1]
        return lambda seen: constant
    if _NUMBER.fullmatch(text):
        return lambda seen: text
    if _ATTRIBUTE.fullmatch(text):
        return _attribute(text, where, roots)
    evaluate = compile_with_roots(text, where, roots)
    return lambda seen: _printed(evaluate(seen))


def _attribute(text: str, where: str, roots: Mapping[str, Read]) -> Expression:
    first, *path = [name or key for name, key in _PART.findall(text)]
    read = roots.get(first)
    if read is None:
        raise ResourceError(where, f"{text} is not known here: attributes are of {', '.join(sorted(roots))}")
    names = _NAMES.get(first)
    if not path or (names is not None and path[0] not in names):
        raise ResourceError(where, f"{text} is not known here")
    if path[0] == "headers":
        path[1:] = [name.lower() for name in path[1:]]

    def value(seen: Seen) -> str | None:
        found: Any = read(seen)
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        return _printed(found)

    return value


def _printed(value: Any) -> str | None:
    """As Envoy's Expr::print has it; None for what is no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


# What is known of each; of others anything may be asked.
_NAMES = {
    "request": frozenset("path url_path query host scheme method headers referer useragent id size protocol".split()),
    "response": frozenset("code code_details headers trailers grpc_status size".split()),
    "connection": frozenset(
        "requested_server_name tls_version uri_san_peer_certificate dns_san_peer_certificate"
        " subject_peer_certificate mtls".split()
    ),
    "source": frozenset(("address", "port")),
    "destination": frozenset(("address", "port")),
    "upstream": frozenset(("address", "cluster", "transport_failure_reason", "request_attempt_count")),
    "xds": frozenset(("route_name", "cluster_name")),
    "node": frozenset(("id", "cluster", "metadata")),
    "filter_state": frozenset(("upstream_peer", "downstream_peer")),
}
