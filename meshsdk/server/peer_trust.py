"""Peers whose connections nobody looks after: those of servers that are not ours, such as gunicorn and grpc.

Theory of operation. A peer is looked at when its first request comes: its chain, names, pins and revocation lists. That
it was found to be good is remembered until its port's policy, or a file that this was decided by, has changed; then all
are looked at again when they next ask for something, and calls that are under way at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..errors import PeerIdentityError, ResourceError
from ..exchange.local_reply import LocalReply
from ..inbound import Connection, InboundRequest
from ..inbound.replies import peer_refused
from ..log_lines import logger_of
from ..resources import TlsTrust
from ..security import check_sent, read_trust, trust_stamp

if TYPE_CHECKING:
    from ..inbound import InboundPolicy
    from .inbound import Inbound

__all__ = ["CutOff", "PeerTrust"]

logger = logger_of("meshsdk.server")

_MAX_ACCEPTED = 1024
_MAX_ENDING = 1024
_SECONDS_TO_TELL = 0.2

CutOff = Callable[[], object]


class _Known:
    """Some trust as it was last read.

    Attributes:
        trust: None where it could not be read yet.
        problem: Why it cannot be read now.
    """

    def __init__(self) -> None:
        self.trust: TlsTrust | None = None
        self.problem = ""
        self._stamp: object = None

    def refresh(self, resolve: Callable[[], TlsTrust]) -> bool:
        """Read it where it has changed, and say whether it has. What cannot be read leaves the last good one."""
        try:
            trust = resolve()
            stamp = trust_stamp(trust)
            if stamp == self._stamp:
                return False
            self.trust = read_trust(trust)
        except (ResourceError, OSError) as error:
            if str(error) != self.problem:
                logger.error("what peers are trusted by cannot be read: %s", error)
            self.problem = str(error)
            return False
        self._stamp, self.problem = stamp, ""
        return True


class PeerTrust:
    """Refuses peers that the port's policy does not trust, or no more.

    Args:
        inbound: The port's policy.
    """

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._lock = threading.Lock()
        self._policy: InboundPolicy | None = None
        self._looked_with: InboundPolicy | None = None
        self._accepted: set[tuple[int, str]] = set()
        self._known: dict[TlsTrust, _Known] = {}
        self._ending: set[object] = set()
        self._open: dict[int, tuple[Connection, CutOff | None]] = {}

    def refusal(self, connection: Connection) -> LocalReply | None:
        """Why the peer of a connection may not ask for anything; None where it may, or has shown no certificate.

        The connection is ended once the peer has been told: when it comes again, its certificate may be another.
        """
        error = self._error(connection)
        if not error:
            return None
        hang_up = connection.hang_up
        # On a unix socket all peers have the same address, and each connection has its own way to be ended.
        end = (connection.source_ip, connection.source_port) if connection.source_port else hang_up
        if hang_up is not None and end not in self._ending and len(self._ending) < _MAX_ENDING:
            self._ending.add(end)
            self._inbound.control.call_later(_SECONDS_TO_TELL, partial(self._end, end, hang_up))
        return peer_refused(error)

    def _end(self, end: object, hang_up: CutOff) -> None:
        self._ending.discard(end)
        hang_up()

    def _error(self, connection: Connection) -> str:
        """What is wrong with a peer; empty where nothing is."""
        peer = connection.peer
        if peer is None or connection.is_watched:
            return ""
        policy = self._inbound.policy
        chain = policy.chain_of(connection) if policy is not None else None
        if chain is None or chain.trust is None:
            return ""
        if policy is not self._policy:
            self._policy, self._accepted = policy, set()
        accepted, key = self._accepted, (id(chain), peer.sha256)
        if key in accepted:
            return ""
        try:
            self._judge(connection, chain.trust)
        except (PeerIdentityError, ResourceError) as error:
            return str(error)
        if len(accepted) >= _MAX_ACCEPTED:
            accepted.clear()
        # Where trust has changed meanwhile this set is nobody's any more.
        accepted.add(key)
        return ""

    def _judge(self, connection: Connection, trust: TlsTrust) -> None:
        with self._lock:
            known = self._known.get(trust)
            if known is None:
                known = self._known[trust] = _Known()
                self._inbound.control.watch_certificates(self)
            if known.trust is None:
                known.refresh(partial(self._inbound.secrets.trust, trust))
            read = known.trust
        if read is None:
            raise ResourceError("validation_context", known.problem)
        assert connection.peer is not None
        # A server that tells of the peer's own certificate only may be right that it was all.
        check_sent(connection.peer_certificates or (connection.peer.der,), read)

    def hold(self, request: InboundRequest, cut_off: CutOff | None = None) -> None:
        """Have a request that was let in broken off when its peer is trusted no more.

        Args:
            request: It says itself when it is over.
            cut_off: Breaks it off, beside what ends its connection; called from any thread.
        """
        connection = request.connection
        if connection.peer is not None and not connection.is_watched:
            key = id(request)
            self._open[key] = (connection, cut_off)
            request.on_done.append(lambda *_: self._let_go(key))

    def _let_go(self, key: int) -> None:
        self._open.pop(key, None)

    def _look_at_certificates(self) -> None:
        """See `HasCertificates`."""
        policy = self._inbound.policy
        with self._lock:
            has_changed = policy is not self._looked_with
            self._looked_with = policy
            if has_changed and policy is not None:
                self._known = {trust: known for trust, known in self._known.items() if trust in policy.trusts}
            for trust, known in self._known.items():
                has_changed |= known.refresh(partial(self._inbound.secrets.trust, trust))
        if not has_changed:
            return
        self._accepted = set()
        for connection, cut_off in list(self._open.values()):
            error = self._error(connection)
            if error:
                logger.warning("a request is broken off: %s", error)
                for end in (cut_off, connection.hang_up):
                    if end is not None:
                        end()
