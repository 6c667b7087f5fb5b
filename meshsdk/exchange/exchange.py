"""One logical request, from its first attempt to its last.

Theory of operation:

    begin ──► Attempt ──► attempt_done(outcome) ──► True: next_attempt ──► Attempt ──► …
          └─► LocalReply                        └─► False: the outcome stands

Everything that affects the course of a request lives here: which endpoint, which target and headers, how long, and
whether once more. Engines carry an Attempt out and report; they decide nothing. Deadlines are absolute, on the
engine's own monotonic clock, since timeouts of the route and of the attempt run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..balancing import Cluster, Endpoint
from ..resources import RetryPolicy
from ..routing import CompiledForward, CompiledRoute, RequestHead, apply_mutations
from ..routing.compiled_route import Destination
from ..routing.formatter import FormatContext
from .local_reply import LocalReply, no_healthy_endpoint, request_timeout
from .outcome import Failure, Outcome
from .retry import may_retry_request, should_retry

__all__ = ["Attempt", "Exchange"]

RandomFraction = Callable[[], float]

_ATTEMPT_COUNT = b"x-envoy-attempt-count"


class Attempt:
    """One try: where, what, and until when.

    Attributes:
        endpoint: Whom to send to.
        target: Path and query to ask for.
        headers: To send, Host included.
        deadline: On the engine's clock; None is no limit. `is_route_deadline` says whose it is.
        number: 1 for the first.
    """

    __slots__ = ("_open", "deadline", "endpoint", "headers", "is_route_deadline", "number", "target")

    def __init__(
        self,
        endpoint: Endpoint,
        target: str,
        headers: Sequence[tuple[bytes, bytes]],
        deadline: float | None,
        is_route_deadline: bool,
        number: int,
    ) -> None:
        self.endpoint = endpoint
        self.target = target
        self.headers = headers
        self.deadline = deadline
        self.is_route_deadline = is_route_deadline
        self.number = number
        self._open = True
        endpoint.active_requests += 1

    def finish(self) -> None:
        """The attempt is over: response read, given up or failed. Calling it again does nothing."""
        if self._open:
            self._open = False
            self.endpoint.active_requests -= 1


class Exchange:
    """The state of one request.

    Args:
        head: The request.
        route: The route that matched; it forwards.
        forward: How it forwards.
        destination: The chosen cluster of a split, with its header changes.
        cluster: That cluster.
        random_fraction: Uniform in [0, 1).

    Attributes:
        retry_policy: Of the route, or of its virtual host.
        attempts: How many were begun.
        deadline: When the route's time is over, on the engine's clock; None is no limit.
        delay_seconds: How long to hold the request back first (fault injection).
    """

    __slots__ = (
        "_previous",
        "_random_fraction",
        "attempts",
        "cluster",
        "deadline",
        "delay_seconds",
        "destination",
        "forward",
        "head",
        "retry_policy",
        "route",
    )

    def __init__(
        self,
        head: RequestHead,
        route: CompiledRoute | None,
        forward: CompiledForward | None,
        destination: Destination | None,
        cluster: Cluster,
        random_fraction: RandomFraction,
    ) -> None:
        self.head = head
        self.route = route
        self.forward = forward
        self.destination = destination
        self.cluster = cluster
        self.delay_seconds = 0.0
        self.attempts = 0
        self.deadline: float | None = None
        self._random_fraction = random_fraction
        self.retry_policy: RetryPolicy | None = forward.retry_policy if forward is not None else None
        self._previous: tuple[Endpoint, ...] = ()

    def begin(self, now: float) -> Attempt | LocalReply:
        """The first attempt; the route's time starts to run."""
        forward = self.forward
        if forward is not None and forward.timeout_seconds is not None:
            self.deadline = now + forward.timeout_seconds
        return self.next_attempt(now)

    def next_attempt(self, now: float) -> Attempt | LocalReply:
        """An attempt on a newly picked endpoint, or the reply where none can be picked."""
        endpoint = self._pick()
        if endpoint is None:
            return no_healthy_endpoint(self.cluster.name, self.cluster.problem)
        self.attempts += 1
        deadline, is_route_deadline = self.deadline, True
        policy = self.retry_policy
        if policy is not None:
            if policy.per_try_timeout_seconds is not None:
                per_try = now + policy.per_try_timeout_seconds
                if deadline is None or per_try < deadline:
                    deadline, is_route_deadline = per_try, False
            if policy.avoid_previous_hosts:
                self._previous += (endpoint,)
        forward, head = self.forward, self.head
        target, headers = head.target, head.raw_headers
        if forward is not None:
            if not forward.is_plain:
                target, headers = self._rewritten(forward, endpoint)
            if forward.include_request_attempt_count:
                headers = _with_attempt_count(headers, self.attempts)
        return Attempt(endpoint, target, headers, deadline, is_route_deadline, self.attempts)

    def is_final(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a response surely stands; a quick look, which may say no of one that does."""
        forward = self.forward
        if forward is None or forward.retry_policy is None:
            return True
        if status >= 400 or status in forward.retriable_statuses:
            return False
        wanted = forward.retriable_headers
        return not wanted or not any(name.lower() in wanted for name, _ in headers)

    def attempt_done(self, outcome: Outcome, now: float) -> bool:
        """Whether to try again after `outcome` (RetryPolicy; the back-off is tenacity's part, see `retrying`)."""
        policy = self.retry_policy
        return (
            policy is not None
            and self.attempts <= policy.num_retries
            and outcome.can_replay
            and (self.deadline is None or now < self.deadline)
            and should_retry(policy, outcome)
            and may_retry_request(policy, self.head)
        )

    def timeout_reply(self, attempt: Attempt) -> LocalReply:
        """What is answered when the deadline of `attempt` passed and it was the last."""
        if attempt.is_route_deadline:
            seconds = self.forward.timeout_seconds if self.forward is not None else None
        else:
            seconds = self.retry_policy.per_try_timeout_seconds if self.retry_policy is not None else None
        return request_timeout(seconds or 0.0, per_try=not attempt.is_route_deadline)

    def deadline_failure(self, attempt: Attempt) -> Failure:
        """Which of the two timeouts the deadline of `attempt` is."""
        return Failure.ROUTE_TIMEOUT if attempt.is_route_deadline else Failure.PER_TRY_TIMEOUT

    def _pick(self) -> Endpoint | None:
        endpoint = self.cluster.pick(self._random_fraction)
        if self._previous and self.retry_policy is not None:
            # RetryPolicy.retry_host_predicate: pick again while the choice was tried before; then take what came.
            for _ in range(self.retry_policy.host_selection_attempts):
                if endpoint is None or endpoint not in self._previous:
                    break
                endpoint = self.cluster.pick(self._random_fraction)
        return endpoint

    def _rewritten(self, forward: CompiledForward, endpoint: Endpoint) -> tuple[str, list[tuple[bytes, bytes]]]:
        """Target and headers after the route's changes, in the order of Envoy's finalizeRequestHeaders."""
        head = self.head
        headers = list(head.raw_headers)
        if self.destination is not None and self.destination.request_steps:
            context = FormatContext(head, self.cluster.name, endpoint.name)
            headers = apply_mutations(self.destination.request_steps, headers, context)
        authority = self._rewritten_authority(forward, endpoint)
        if authority and authority != head.authority:
            if forward.action.append_x_forwarded_host:
                headers.append((b"x-forwarded-host", head.authority.encode("latin-1")))
            headers = _with_host(headers, authority)
        target = head.target
        if forward.path_rewrite is not None:
            target = forward.path_rewrite(head) or "/"
            if target != head.target:
                headers.append((b"x-envoy-original-path", head.target.encode()))
        return target, headers

    def _rewritten_authority(self, forward: CompiledForward, endpoint: Endpoint) -> str:
        if self.destination is not None and self.destination.host_rewrite:
            return self.destination.host_rewrite
        if forward.host_rewrite is not None:
            return forward.host_rewrite(self.head)
        return endpoint.config.hostname if forward.action.auto_host_rewrite else ""


def _with_attempt_count(headers: Sequence[tuple[bytes, bytes]], attempts: int) -> list[tuple[bytes, bytes]]:
    """VirtualHost.include_request_attempt_count; a count that came with the request is not passed on."""
    size = len(_ATTEMPT_COUNT)
    for name, _ in headers:
        if len(name) == size and name.lower() == _ATTEMPT_COUNT:
            headers = [header for header in headers if header[0].lower() != _ATTEMPT_COUNT]
            break
    return [*headers, (_ATTEMPT_COUNT, b"%d" % attempts)]


def _with_host(headers: list[tuple[bytes, bytes]], authority: str) -> list[tuple[bytes, bytes]]:
    # Host stays in its place, first, as RFC 9110 section 7.2 advises.
    changed = [header for header in headers if header[0].lower() != b"host"]
    changed.insert(0, (b"host", authority.encode()))
    return changed
