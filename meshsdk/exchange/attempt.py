"""One try of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..balancing import Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from .outcome import Failure

__all__ = ["Attempt"]


class Attempt:
    """One try: where, what, and until when.

    Attributes:
        endpoint: Whom to send to.
        target: Path and query to ask for.
        headers: To send, Host included.
        deadline: On the engine's clock; None is no limit. `deadline_failure` says what its passing is.
        number: 1 for the first.
        breaker: Counts it as long as it is under way.
        on_finish: Called when it is over.
    """

    __slots__ = (
        "_open",
        "breaker",
        "deadline",
        "deadline_failure",
        "endpoint",
        "headers",
        "number",
        "on_finish",
        "target",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        target: str,
        headers: Sequence[tuple[bytes, bytes]],
        deadline: float | None,
        deadline_failure: Failure,
        number: int,
        breaker: CircuitBreaker,
    ) -> None:
        self.endpoint = endpoint
        self.breaker = breaker
        self.target = target
        self.headers = headers
        self.deadline = deadline
        self.deadline_failure = deadline_failure
        self.number = number
        self.on_finish: Callable[[], None] | None = None
        self._open = True
        endpoint.active_requests += 1
        breaker.requests += 1

    def finish(self) -> None:
        """The attempt is over: response read, given up or failed. Calling it again does nothing."""
        if self._open:
            self._open = False
            self.endpoint.active_requests -= 1
            self.breaker.requests -= 1
            if self.on_finish is not None:
                self.on_finish()

    @property
    def is_finished(self) -> bool:
        """Whether it is over."""
        return not self._open
