"""A management server as a `Source`: one stream, opened again whenever it ends.

A server that is away, slow or lying changes nothing for traffic: the cache keeps the last good resources, and this
keeps trying. After a stream that brought no response the next server of the bootstrap's list is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf import json_format

from ..bootstrap import Node, XdsServer
from ..errors import BootstrapError
from ..log_lines import logger_of
from ..resources import ResourceType
from .backoff import Backoff
from .cache import DOES_NOT_EXIST_SECONDS, ResourceCache, Status
from .delta import DeltaSession
from .lifetimes import Lifetimes
from .loop import ControlLoop, Timer
from .packed import of_sidecars
from .refusal import what_to_do
from .second_question import Callbacks, SecondQuestion
from .session import Session
from .sotw import SotwSession
from .source import Wanted
from .stream import AdsStream

__all__ = ["AdsClient"]

logger = logger_of("meshsdk.xds")


class AdsClient:
    """Keeps the wanted resources current over ADS. Control thread only.

    Args:
        servers: In order of preference.
        node: Who to introduce oneself as.
        cache: Where resources are put.
        loop: The control thread.
        backoff: Delays between connection attempts.
        does_not_exist_seconds: How long a wanted resource may take before it counts as not existing.
        has_identity: This process can show a certificate of the mesh.

    Attributes:
        failures: See `Source.failures`.
    """

    def __init__(
        self,
        servers: Sequence[XdsServer],
        node: Node,
        cache: ResourceCache,
        loop: ControlLoop,
        *,
        backoff: Backoff | None = None,
        does_not_exist_seconds: float = DOES_NOT_EXIST_SECONDS,
        has_identity: bool = False,
    ) -> None:
        self._servers = tuple(servers)
        self._node = node
        self._cache = cache
        self._loop = loop
        self._backoff = backoff or Backoff()
        self._does_not_exist_seconds = does_not_exist_seconds
        self._server_index = 0
        # The server that versions are of.
        self._heard_of: XdsServer | None = None
        if node.is_sidecar:
            cache.packed = of_sidecars()
        first = self._servers[0]
        is_incremental = first.is_incremental or (node.is_sidecar and not first.is_of_the_world)
        make_session = DeltaSession if is_incremental else SotwSession
        self._session: Session = make_session(
            node_message(node),
            cache,
            keep_deleted=self._servers[0].ignores_resource_deletion,
            has_identity=has_identity,
        )
        self._stream: AdsStream | None = None
        self._heard = False
        self._reconnect: Timer | None = None
        self._timers: dict[tuple[ResourceType, str], Timer] = {}
        self._second_question = SecondQuestion(
            self._session, loop, self._open_beside, self._cancel_timer, does_not_exist_seconds
        )
        self._lifetimes = Lifetimes(cache, loop)
        self._closed = False
        self._problem = ""
        self.failures = 0

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`: a server that has not answered yet is none."""
        return self._stream is not None and self._heard

    @property
    def problem(self) -> str:
        """Why the stream is down, or why it cannot bring what is wanted; empty where all is well."""
        return self._problem or self._session.problem

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind in ResourceType:
            names = frozenset(wanted.get(kind, ()))
            for gone in self._session.wanted.get(kind, frozenset()) - names:
                self._cancel_timer(kind, gone)
                self._second_question.forget(kind, gone)
                self._lifetimes.forget((kind, gone))
            request = self._session.subscribe(kind, names)
            if request is not None and self._stream is not None:
                self._stream.send(request)
                self._expect(kind)
            elif self._stream is not None and kind in self._cache.packed and not self._cache.packed[kind].is_known:
                self._expect(kind)
        if self._stream is None and self._reconnect is None and any(self._session.wanted.values()):
            self._connect()

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        if self._reconnect is not None:
            self._reconnect.cancel()
        self._lifetimes.close()
        self._drop_stream()

    def _connect(self) -> None:
        self._reconnect = None
        if self._closed:
            return
        server = self._servers[self._server_index]
        self._heard = False
        try:
            stream = AdsStream(
                server,
                on_response=lambda stream, response: self._loop.post(partial(self._on_response, stream, response)),
                on_end=lambda stream, reason: self._loop.post(partial(self._on_end, stream, reason)),
                is_incremental=self._session.is_incremental,
            )
        except BootstrapError as error:
            self._problem = str(error)
            self.failures += 1
            logger.warning("%s", error)
            self._reconnect = self._loop.call_later(self._backoff.next_seconds(), self._connect)
            return
        self._stream = stream
        for request in self._session.open(is_same_server=self._heard_of in (None, server)):
            stream.send(request)
        for kind in ResourceType:
            self._expect(kind)

    def _open_beside(self, callbacks: Callbacks) -> AdsStream | None:
        if self._stream is None or not self._heard:
            return None
        return AdsStream(self._servers[self._server_index], *callbacks, beside=self._stream)

    def _on_response(self, stream: AdsStream, response: Any) -> None:
        if stream is not self._stream:
            return
        known_problem = self._session.problem
        if not self._heard:
            self._heard = True
            self._heard_of = self._servers[self._server_index]
            self._problem = ""
            self._backoff.reset()
        try:
            received = self._session.receive(response)
        finally:
            stream.processed()
        if received.kind is not None:
            for name in received.settled:
                self._cancel_timer(received.kind, name)
            self._lifetimes.take({(received.kind, name): one for name, one in received.lifetimes.items()})
        for answer in received.answers:
            if answer.HasField("error_detail"):
                logger.warning("refused a response of the management server: %s", answer.error_detail.message)
            stream.send(answer)
        if self._session.problem and not known_problem:
            logger.warning("%s", self._session.problem)
        self._second_question.look()

    def _on_end(self, stream: AdsStream, reason: str) -> None:
        if stream is not self._stream:
            return
        server = self._servers[self._server_index]
        self._drop_stream()
        advice = what_to_do(stream.code, server, self._node)
        problem = f"management server {server.uri}: {reason}" + (f"; {advice}" if advice else "")
        level = logging.WARNING if advice and problem != self._problem else logging.INFO
        self._problem = problem
        self.failures += 1
        logger.log(level, "%s; the last good configuration stays in use", self._problem)
        if not self._heard:
            self._server_index = (self._server_index + 1) % len(self._servers)
        else:
            self._server_index = 0
        self._reconnect = self._loop.call_later(self._backoff.next_seconds(), self._connect)

    def _drop_stream(self) -> None:
        self._second_question.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _expect(self, kind: ResourceType) -> None:
        """Start the does-not-exist timer of each wanted resource of which nothing is known."""
        for name in self._session.wanted.get(kind, frozenset()):
            entry = self._cache.get(kind, name)
            if entry is not None and entry.status is Status.REQUESTED and (kind, name) not in self._timers:
                self._timers[(kind, name)] = self._loop.call_later(
                    self._does_not_exist_seconds, partial(self._on_missing, kind, name)
                )
        self._second_question.look()

    def _on_missing(self, kind: ResourceType, name: str) -> None:
        self._timers.pop((kind, name), None)
        if self._stream is not None and not self._stream.has_sent:
            self._expect(kind)  # There is no connection yet, so that it has not been asked for.
            return
        entry = self._cache.get(kind, name)
        if entry is None or entry.status is not Status.REQUESTED:
            return
        if self._second_question.is_there(kind, name):
            logger.warning("%s: the management server has it and does not send it; it is waited for", name)
        else:
            reason = f"the management server did not send it in {self._does_not_exist_seconds:g} s"
            self._cache.remove(kind, name, Status.TIMEOUT, reason)
            logger.warning("%s %s: %s; it counts as missing", kind.name.lower(), name, reason)

    def _cancel_timer(self, kind: ResourceType, name: str) -> None:
        timer = self._timers.pop((kind, name), None)
        if timer is not None:
            timer.cancel()


def node_message(node: Node) -> Any:
    """The envoy.config.core.v3.Node of a bootstrap's node, with what this client can do."""
    message = base_pb2.Node(
        id=node.id,
        cluster=node.cluster,
        user_agent_name="meshsdk",
        # gRFC A55: resources may come wrapped in a discovery Resource.
        client_features=["xds.config.resource-in-sotw"],
    )
    message.locality.region = node.locality.region
    message.locality.zone = node.locality.zone
    message.locality.sub_zone = node.locality.sub_zone
    json_format.ParseDict(dict(node.metadata), message.metadata)
    return message
