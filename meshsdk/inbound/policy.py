"""A server's policy: every filter chain of its listener, and which of them a connection has.

`begin` gives the answer, None to let the request in, or a generator of what it waits for first.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..discovery import ServerView
from ..errors import ResourceError
from ..resources import TlsTrust
from ..resources.listener import NO_RULES, RequestRules, ServerListener, strictest
from ..routing.tracing import Traced
from .compiled_chain import CompiledChain
from .connection import Connection
from .filter_chains import ChainFinder
from .filters.compiling import FilterStates, Result
from .replies import not_configured, not_told
from .request import InboundRequest

__all__ = ["InboundPolicy", "compile_policy"]

# Of connections it is remembered which chain they have.
_MAX_KNOWN = 1024


class InboundPolicy:
    """What one server does with its requests.

    Args:
        view: The listener with its routes.
        before: The policy that this one takes the place of.
        own_cluster: That this process is of, by its bootstrap.

    Attributes:
        problem: Why nobody gets in; empty where there is a policy.
        rules: What is a request at all, by the strictest of its chains.
    """

    def __init__(self, view: ServerView, before: InboundPolicy | None = None, own_cluster: str = "") -> None:
        self.view = view
        self.problem = view.problem
        self.listener: ServerListener | None = view.listener
        self._states: FilterStates = FilterStates(before._states if before is not None else None)
        self._chains: dict[int, CompiledChain] = {}
        self._finder: ChainFinder | None = None
        self._known: dict[int, tuple[Connection, CompiledChain | None]] = {}
        self.rules: RequestRules = NO_RULES
        if view.listener is None:
            return
        self._finder = ChainFinder(view.listener)
        managers = [chain.manager for chain in view.listener.all_chains if chain.manager is not None]
        self.rules = strictest(manager.rules for manager in managers)
        for chain in view.listener.all_chains:
            if chain.manager is not None:
                routes = chain.manager.listener.route_configuration or view.routes[chain.manager.listener.route_name]
                self._chains[id(chain)] = CompiledChain(chain, routes, self._states, own_cluster)
        self._states.settle()

    def chain_of(self, connection: Connection) -> CompiledChain | None:
        """The chain of a connection; None where it must be refused."""
        if self._finder is None:
            return None
        # A connection brings many requests, and is the same object for all where its server says so.
        known = self._known.get(id(connection))
        if known is not None and known[0] is connection:
            return known[1]
        found = self._finder.find(connection)
        if found is None and connection.peer is not None:
            # It was accepted before the port went over to plaintext, where Envoy would let its old chain serve it on.
            # Who proves who they are is no less welcome than those who do not, and held to the same rules.
            found = self._finder.find(replace(connection, is_tls=False))
        chain = self._chains.get(id(found)) if found is not None else None
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[id(connection)] = (connection, chain)
        return chain

    def begin(self, request: InboundRequest) -> Result:
        """Decide on a request: an answer, None to let it in, or a generator of what is waited for first."""
        if self.listener is None:
            return not_configured(self.problem)
        assert self._finder is not None
        connection = request.connection
        if connection.untold and self._finder.asks & connection.untold:
            return not_told(self._finder.asks & connection.untold)
        chain = self.chain_of(connection)
        if chain is None:
            return not_configured("no filter chain is for this connection")
        return chain.begin(request)

    def trace(self, request: InboundRequest) -> Traced | None:
        """What configuration says of a request's trace, before the request is decided on; None is nothing."""
        connection = request.connection
        if self._finder is None or (connection.untold and self._finder.asks & connection.untold):
            return None
        chain = self.chain_of(connection)
        return chain.trace(request) if chain is not None else None

    @property
    def trusts(self) -> frozenset[TlsTrust]:
        """What peers are held to, of all chains."""
        return frozenset(chain.trust for chain in self._chains.values() if chain.trust is not None)

    @property
    def connect_timeout_seconds(self) -> float | None:
        """How long the handshake of a connection may take, by the strictest of the chains; None where none says."""
        chains = self.listener.all_chains if self.listener is not None else ()
        said = [chain.connect_timeout_seconds for chain in chains if chain.connect_timeout_seconds is not None]
        return min(said, default=None)

    def needs_peers(self, port: int) -> bool:
        """Whether nobody gets in at a port without a certificate, as under STRICT."""
        return self.listener is not None and all(
            chain.tls is not None and chain.tls.require_client_certificate
            for chain in self.listener.chains_of(port)
            if chain.manager is not None
        )


def compile_policy(view: ServerView, before: InboundPolicy | None, own_cluster: str = "") -> InboundPolicy:
    """A policy. One that does not compile leaves the last good one in use."""
    try:
        return InboundPolicy(view, before, own_cluster)
    except Exception as error:  # noqa: BLE001 - a fault of ours: the policies of other ports must not wait for it.
        what = str(error) if isinstance(error, ResourceError) else repr(error)
        problem = f"listener {view.listener.name if view.listener else ''}: {what}"
        if before is not None and before.listener is not None:
            before.problem = problem
            return before
        return InboundPolicy(replace(view, listener=None, problem=problem))
