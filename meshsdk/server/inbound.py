"""The policy of one port of this process: `mesh.inbound(port)`."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from ..discovery import SERVER_ROOT
from ..errors import NoRouteError
from ..resources.listener import NO_RULES, RequestRules

if TYPE_CHECKING:
    from ..control import Control
    from ..inbound import InboundPolicy
    from ..security import Secrets

__all__ = ["HasControl", "Inbound", "inbound_of_port", "rules_of_port"]


class HasControl(Protocol):
    """A Mesh."""

    @property
    def _runtime(self) -> Control:
        """Its inner side."""

    def close(self) -> None:
        """Stop following configuration."""


_of_middleware: WeakSet[Inbound] = WeakSet()


def inbound_of_port(port: int) -> Inbound | None:
    """Whose port it is: of the middlewares that have started in this process, or of the only one."""
    started = list(_of_middleware)
    return next((one for one in started if one.port == port), started[0] if len(started) == 1 else None)


def rules_of_port(port: int) -> RequestRules:
    """What a port of this process takes for a request; Envoy's defaults before its policy has come."""
    inbound = inbound_of_port(port)
    policy = inbound.policy if inbound is not None else None
    return policy.rules if policy is not None else NO_RULES


class Inbound:
    """What the mesh says of requests that come to one port.

    Args:
        control: The control side.
        port: That the server listens on, as configuration knows it.
        address: The address that it listens on.
        listener: Name of the listener resource; by default what the bootstrap's server template makes of the address.
    """

    def __init__(self, control: Control, port: int, address: str = "0.0.0.0", listener: str = "") -> None:
        self.port = port
        self.name = listener or control.bootstrap.server_listener_name(address, port)
        self._control = control
        self._root = f"{SERVER_ROOT}{self.name}"

    def has_started(self) -> None:
        """An application that is behind this policy runs in this process, served by whatever server."""
        _of_middleware.add(self)

    def has_ended(self) -> None:
        """It runs no more."""
        _of_middleware.discard(self)

    @property
    def policy(self) -> InboundPolicy | None:
        """The policy in force; None before it has come."""
        return self._control.policies.get(self.name)

    @property
    def secrets(self) -> Secrets:
        """What names of certificates stand for."""
        return self._control.secrets

    @property
    def control(self) -> Control:
        """The control side."""
        return self._control

    def wait_ready(self, timeout: float = 15.0) -> InboundPolicy:
        """Wait for the policy.

        Args:
            timeout: In seconds.

        Raises:
            TimeoutError: It did not come in time.
            NoRouteError: There is none for this port, or it is broken; then nobody gets in.
        """
        settled = threading.Event()
        cancel = self._control.when_settled([self._root], settled.set)
        try:
            if self.policy is None and not settled.wait(timeout):
                raise self._not_ready(timeout)
        finally:
            cancel()
        return self._checked()

    async def wait_ready_async(self, timeout: float = 15.0) -> InboundPolicy:
        """`wait_ready` for asyncio.

        Args:
            timeout: In seconds.

        Raises:
            TimeoutError: The policy has not come in time.
            NoRouteError: There is none for the port.
        """
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(settled.set)

        cancel = self._control.when_settled([self._root], wake)
        try:
            if self.policy is None:
                async with asyncio.timeout(timeout):
                    await settled.wait()
        except TimeoutError:
            raise self._not_ready(timeout) from None
        finally:
            cancel()
        return self._checked()

    def _checked(self) -> InboundPolicy:
        policy = self.policy
        if policy is None or policy.listener is None:
            why = policy.problem if policy is not None else "the Mesh is closed"
            raise NoRouteError(f"port {self.port} has no inbound policy: {why}")
        return policy

    def _not_ready(self, timeout: float) -> TimeoutError:
        problem = self._control.problem or "the management server has not answered yet"
        return TimeoutError(f"no inbound policy for port {self.port} in {timeout:g} s: {problem}")
