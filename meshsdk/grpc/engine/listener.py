"""Listeners as grpc-core takes them: the routes of one target, or the way to one cluster.

Sources: gRFC A27 (api_listener), A39 (HTTP filters), A55 and A60 (stateful sessions).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.stateful_session.cookie.v3 import cookie_pb2

from ...resources import StatefulSession
from ...routing import RouteTable
from ...routing.route_index import RouteIndex
from .action import write_action
from .match import NotNative, call_head, native_match

__all__ = ["PEER_COOKIE", "routes_of", "write_listener", "write_target"]

# grpc-core tells nobody which endpoint a call went to; but it writes it into a session's cookie. A session that no
# caller ever continues changes no pick, and its cookie, taken out of the response again, names endpoint and cluster.
# Servers never see its name and cannot guess it, so none can pretend that another one has failed.
PEER_COOKIE = f"meshsdk-peer-{secrets.token_hex(16)}"

_SESSION_FILTER = "meshsdk.session"


def routes_of(table: RouteTable, authority: str) -> RouteIndex | None:
    """The routes of the virtual host of a channel; None where there is none, or where it depends on the call."""
    head = call_head(authority, "/")
    if table.prepare is not None:
        head, _ = table.prepare(head)
    return None if table.configuration.vhost_header else table.routes_for(head)


def write_target(
    name: str, table: RouteTable, authority: str, cluster_name: Callable[[str], str], *, reveal_peers: bool
) -> listener_pb2.Listener:
    """The listener of a target: all routes that grpc-core can find by itself.

    Args:
        name: Of the listener.
        table: The target's routes.
        authority: Of the channel.
        cluster_name: From a cluster to the name of its resource.
        reveal_peers: Have responses say which endpoint they come from.
    """
    index = routes_of(table, authority)
    virtual_host = route_components_pb2.VirtualHost(name=authority or "*", domains=["*"])
    session = _session_of(table)
    for route in index.routes if index is not None else ():
        try:
            match = native_match(route.route.match, authority)
        except NotNative:
            continue  # Calls that may take it do not come here.
        if match is None:
            continue
        message = virtual_host.routes.add(name=route.name)
        message.match.CopyFrom(match)
        if route.forward is not None and any(one.name for one in route.forward.action.clusters):
            write_action(route.forward, cluster_name, message.route)
            if session is not None:
                own = route.forward.destinations[0].filters.session
                message.typed_per_filter_config[_SESSION_FILTER].Pack(_session_per_route(own))
        else:
            message.non_forwarding_action.SetInParent()
    if session is None and reveal_peers:
        session = StatefulSession(cookie=PEER_COOKIE)
    return write_listener(name, virtual_host, session)


def write_listener(
    name: str, virtual_host: route_components_pb2.VirtualHost, session: StatefulSession | None
) -> listener_pb2.Listener:
    """A listener with inline routes of one virtual host, and perhaps with sessions."""
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="meshsdk")
    manager.route_config.name = name
    manager.route_config.virtual_hosts.append(virtual_host)
    if session is not None:
        manager.http_filters.add(name=_SESSION_FILTER).typed_config.Pack(_session_message(session))
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    listener = listener_pb2.Listener(name=name)
    listener.api_listener.api_listener.Pack(manager)
    return listener


def _session_of(table: RouteTable) -> StatefulSession | None:
    """The session settings of a listener; grpc-core keeps sessions by cookie only."""
    for one in table.listener.filters:
        if isinstance(one.setting, StatefulSession):
            return one.setting
    return None


def _session_per_route(session: StatefulSession | None) -> Any:
    message = stateful_session_pb2.StatefulSessionPerRoute()
    if session is None or not session.cookie:
        message.disabled = True
    else:
        message.stateful_session.CopyFrom(_session_message(session))
    return message


def _session_message(session: StatefulSession) -> Any:
    message = stateful_session_pb2.StatefulSession(strict=session.strict)
    if session.cookie:
        state = cookie_pb2.CookieBasedSessionState()
        state.cookie.name, state.cookie.path = session.cookie, session.path
        state.cookie.ttl.seconds = session.ttl_seconds
        message.session_state.name = "cookie"
        message.session_state.typed_config.Pack(state)
    return message
