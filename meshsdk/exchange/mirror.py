"""Copies of a request for other clusters, whose answers nobody waits for (RouteAction.request_mirror_policies).

Source: Envoy docs, RouteAction.RequestMirrorPolicy; source/common/http/utility and router/shadow_writer_impl.cc: a copy
is the request as it goes upstream, with `-shadow` added to its host.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..balancing import Cluster
from ..routing import RequestHead
from ..routing.rewrite import split_authority
from .exchange import Exchange
from .request_changes import with_host

__all__ = ["mirrored"]


def mirrored(exchange: Exchange, clusters: Mapping[str, Cluster]) -> list[Exchange]:
    """The copies to send of a request; chance has a say, and clusters that are not there get none."""
    forward = exchange.forward
    if forward is None:
        return []
    copies = []
    for mirror in forward.mirrors:
        if exchange.random_fraction() >= mirror.fraction.share:
            continue
        name = mirror.cluster or exchange.head.first_header(mirror.cluster_header) or ""
        cluster = clusters.get(name)
        if cluster is None:
            continue
        head = exchange.outgoing_head
        authority = mirror.host_rewrite or head.authority
        if mirror.host_suffix:
            host, port = split_authority(authority)
            authority = f"{host}-shadow{port}"
        headers = with_host(head.raw_headers, authority)
        copy = Exchange(
            RequestHead(head.method, head.scheme, authority, head.target, headers),
            None,
            None,
            None,
            cluster,
            exchange.random_fraction,
        )
        copy.timeouts = exchange.timeouts
        copies.append(copy)
    return copies
