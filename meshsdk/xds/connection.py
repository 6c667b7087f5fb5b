"""One management server: a stream that is opened again whenever it ends, and what is waited for on it.

Control thread only. Failures as gRFC A57 has them:

- A stream that ended before it brought a response is a failure of the server, and the next one waits longer. One that
  ended later is none: servers close streams to share their load.
- A resource counts as missing when it has not come in a time that begins when it has been asked for on a stream that is
  connected. A server that cannot be reached says of nothing that it is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf import json_format

from ..bootstrap import XdsServer
from ..errors import BootstrapError
from ..log_lines import logger_of
from ..node import Node
from ..resources import ResourceType
from .backoff import Backoff
from .cache import DOES_NOT_EXIST_SECONDS, ResourceCache, Status
from .delta import DeltaSession
from .lifetimes import Lifetimes
from .loop import ControlLoop, Timer
from .refusal import what_to_do
from .second_question import Callbacks, SecondQuestion
from .session import Session
from .sotw import SotwSession
from .source import Wanted
from .stream import AdsStream, Channels

__all__ = ["Common", "ServerConnection", "node_message"]

logger = logger_of("meshsdk.xds")

# gRFC A88: of a server that says what it does not have, what does not come in this time is late.
_LATE_SECONDS = 30.0

# A server that refuses a stream says so in this time; one that is silent for longer has nothing new to say.
_QUIET_SECONDS = 1.0


class Common:
    """What the servers of one list share.

    Args:
        node: Who to introduce oneself as.
        cache: Where resources are put.
        loop: The control thread.
        channels: Where channels are from.
        make_backoff: Delays between the attempts to reach one server.
        does_not_exist_seconds: How long a wanted resource may take before it counts as not existing; None takes what
            gRPC does.
        has_identity: This process can show a certificate of the mesh.
        service: See `AdsStream`.
        takes_all: Types that the cache has as a whole come from here.
    """

    def __init__(
        self,
        node: Node,
        cache: ResourceCache,
        loop: ControlLoop,
        channels: Channels,
        *,
        make_backoff: Callable[[], Backoff],
        does_not_exist_seconds: float | None,
        has_identity: bool,
        service: str,
        takes_all: bool,
    ) -> None:
        self.node = node
        self.cache = cache
        self.loop = loop
        self.channels = channels
        self.make_backoff = make_backoff
        self.has_identity = has_identity
        self.service = service
        self.takes_all = takes_all
        self.lifetimes = Lifetimes(cache, loop)
        # The server that all resources in use are of; versions mean something to it alone.
        self.heard_of: XdsServer | None = None
        self._does_not_exist_seconds = does_not_exist_seconds

    def patience_seconds(self, server: XdsServer) -> float:
        """How long a resource may take."""
        if self._does_not_exist_seconds is not None:
            return self._does_not_exist_seconds
        return _LATE_SECONDS if server.tells_of_missing_resources else DOES_NOT_EXIST_SECONDS


class ServerConnection:
    """Keeps the wanted resources current with one server, as far as it can be reached.

    Args:
        server: The server.
        common: What it shares with others.
        on_change: Called when it was heard of, and when it could not be reached.

    Attributes:
        is_heard: Its stream has brought a response, or owes none.
        is_failing: It was not heard of the last time that it was asked.
        failures: How often a stream ended, or could not be opened.
    """

    def __init__(self, server: XdsServer, common: Common, on_change: Callable[[], None]) -> None:
        self.server = server
        self._common = common
        self._cache, self._loop = common.cache, common.loop
        self._on_change = on_change
        self._backoff = common.make_backoff()
        # istiod has an Envoy's whole mesh for a sidecar, and would send all of it with each change.
        is_incremental = server.is_incremental or (common.takes_all and not server.is_of_the_world)
        make_session = DeltaSession if is_incremental else SotwSession
        self._session: Session = make_session(
            node_message(common.node),
            common.cache,
            keep_deleted=server.ignores_resource_deletion,
            drop_bad=server.fails_on_data_errors,
            has_identity=common.has_identity,
            takes_all=common.takes_all,
        )
        self._stream: AdsStream | None = None
        self._reconnect: Timer | None = None
        self._quiet: Timer | None = None
        self._timers: dict[tuple[ResourceType, str], Timer] = {}
        self._patience_seconds = common.patience_seconds(server)
        self._second_question = SecondQuestion(
            self._session, common.loop, self._open_beside, self._cancel_timer, self._patience_seconds
        )
        self._closed = False
        self._problem = ""
        self._warned_of = ""
        self.is_heard = False
        self._was_heard = False
        self.is_failing = False
        self.failures = 0

    @property
    def problem(self) -> str:
        """Why the stream is down, or why it cannot bring what is wanted; empty where all is well."""
        return self._problem or self._session.problem

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind in ResourceType:
            before, names = self._session.wanted.get(kind, frozenset()), wanted.get(kind, frozenset())
            for gone in before - names if names is not before else ():
                self._cancel_timer(kind, gone)
                self._second_question.forget(kind, gone)
            request = self._session.subscribe(kind, names)
            if self._stream is None:
                continue
            if request is not None:
                self._stream.send(request)
            self._expect(kind)
        if self._stream is None and self._reconnect is None and any(self._session.wanted.values()):
            self._connect()

    def close(self) -> None:
        """Let go of the server; what it has brought stays."""
        self._closed = True
        if self._reconnect is not None:
            self._reconnect.cancel()
        self._drop_stream()

    def _connect(self) -> None:
        self._reconnect = None
        if self._closed:
            return
        post = self._loop.post
        try:
            stream = AdsStream(
                self.server,
                self._common.channels,
                on_response=lambda stream, response: post(partial(self._on_response, stream, response)),
                on_end=lambda stream, reason: post(partial(self._on_end, stream, reason)),
                on_sent=lambda stream: post(partial(self._on_sent, stream)),
                is_incremental=self._session.is_incremental,
                service=self._common.service,
            )
        except BootstrapError as error:
            self._fail(str(error))
            logger.warning("%s", error)
            return
        self._stream = stream
        for request in self._session.open(is_same_server=self._common.heard_of == self.server):
            stream.send(request)
        if self._session.is_incremental:
            self._quiet = self._loop.call_later(_QUIET_SECONDS, partial(self._on_quiet, stream))

    def _on_quiet(self, stream: AdsStream) -> None:
        """No response may be one: an incremental server says what has changed since the last stream, if anything."""
        self._quiet = None
        if stream is not self._stream or self.is_heard:
            return
        if stream.has_sent and not self._session.is_waiting:
            self._hear()
            self._second_question.look()
        else:
            self._quiet = self._loop.call_later(_QUIET_SECONDS, partial(self._on_quiet, stream))

    def _hear(self) -> None:
        """The server is there."""
        if self._warned_of:
            logger.warning("management server %s answers%s", self.server.uri, " again" if self._was_heard else "")
            self._warned_of = ""
        self.is_heard, self.is_failing = True, False
        self._was_heard = True
        self._common.heard_of = self.server
        self._problem = ""
        self._backoff.reset()
        self._on_change()

    def _open_beside(self, callbacks: Callbacks) -> AdsStream | None:
        return AdsStream(self.server, self._common.channels, *callbacks) if self.is_heard else None

    def _on_sent(self, stream: AdsStream) -> None:
        if stream is self._stream:
            for kind in ResourceType:
                self._expect(kind)

    def _on_response(self, stream: AdsStream, response: Any) -> None:
        if stream is not self._stream:
            return
        known_problem = self._session.problem
        if not self.is_heard:
            self._hear()
        try:
            received = self._session.receive(response)
        finally:
            stream.processed()
        if received.kind is not None:
            for name in received.settled:
                self._cancel_timer(received.kind, name)
            for name in received.doubted:
                self._second_question.forget(received.kind, name)
            lifetimes = {(received.kind, name): one for name, one in received.lifetimes.items()}
            self._common.lifetimes.take(lifetimes)
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
        is_failing = not self.is_heard
        self._drop_stream()
        advice = what_to_do(stream.code, self.server, self._common.node)
        problem = f"management server {self.server.uri}: {reason}" + (f"; {advice}" if advice else "")
        # That a stream ends is no news, as istiod ends each after half an hour: that the next one is not answered is.
        is_news = (bool(advice) or is_failing) and problem != self._warned_of
        self._warned_of = problem if is_news else self._warned_of
        kept = "the last good configuration stays in use" if self._was_heard else "it has sent nothing yet"
        logger.log(logging.WARNING if is_news else logging.DEBUG, "%s; %s", problem, kept)
        self._fail(problem, is_failing=is_failing)

    def _fail(self, problem: str, *, is_failing: bool = True) -> None:
        self._problem = problem
        self.failures += 1
        self.is_failing = is_failing
        self._reconnect = self._loop.call_later(self._backoff.next_seconds(), self._connect)
        self._on_change()

    def _drop_stream(self) -> None:
        self._second_question.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        self.is_heard = False
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _expect(self, kind: ResourceType) -> None:
        """Start the timer of each wanted resource of which nothing is known, once it has been asked for."""
        if self._stream is None or not self._stream.has_sent:
            return
        for name in self._session.wanted.get(kind, frozenset()):
            entry = self._cache.get(kind, name)
            if entry is not None and entry.status is Status.REQUESTED and (kind, name) not in self._timers:
                self._timers[(kind, name)] = self._loop.call_later(
                    self._patience_seconds, partial(self._on_missing, kind, name)
                )
        self._second_question.look()

    def _on_missing(self, kind: ResourceType, name: str) -> None:
        self._timers.pop((kind, name), None)
        entry = self._cache.get(kind, name)
        if entry is None or entry.status is not Status.REQUESTED:
            return
        if entry.kept_at and not self.is_heard:
            self._expect(kind)  # A server that says nothing at all says nothing of what was kept.
            return
        if self._second_question.is_there(kind, name):
            logger.warning("%s: the management server has it and does not send it; it is waited for", name)
            return
        reason = f"the management server did not send it in {self._patience_seconds:g} s"
        is_late = self.server.tells_of_missing_resources
        self._cache.remove(kind, name, Status.TIMEOUT if is_late else Status.DOES_NOT_EXIST, reason)
        logger.warning("%s %s: %s%s", kind.name.lower(), name, reason, "" if is_late else "; it counts as missing")

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
