"""One logical request, from its first attempt to its last.

Theory of operation:

    begin ──► Attempt ──► attempt_done(outcome) ──► True: next_attempt ──► Attempt ──► …
          └─► LocalReply                        └─► False: the outcome stands

A kept connection that the peer closes as it is used again has done nothing with the request, and is no fault of the
endpoint's: `resend` gives one more attempt on the same endpoint, whatever the policy retries. RFC 9112 (section 9.3.1)
allows it for idempotent requests; it is had once a request, and counts as a retry wherever those are counted.

Everything that affects the course of a request lives here: which endpoint, which target and headers, how long, and
whether once more. Engines carry an Attempt out and report; they decide nothing. Deadlines are absolute, on the
engine's own monotonic clock, since timeouts of the route and of the attempt run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from msgspec.structs import replace

from .. import deadline as inbound
from ..balancing import Cluster, Endpoint
from ..balancing.context import MetadataMatch
from ..resources import RetryPolicy
from ..routing import CompiledForward, CompiledRoute, RequestHead, RouteTable, apply_mutations
from ..routing.compiled_filters import FaultTally
from ..routing.compiled_forward import Destination
from ..routing.formatter import FormatContext
from ..routing.timeouts import RouteTimeouts, format_grpc_timeout
from ..routing.tracing import Traced
from . import caller_headers, sessions
from .attempt import Attempt
from .local_reply import LocalReply, dropped, no_healthy_endpoint, overflow, payload_too_large, timeout_reply
from .outcome import Failure, Outcome
from .reporting import take_back
from .request_changes import (
    changed_request,
    format_context,
    with_forwarded_host,
    with_header,
    with_host,
    with_original_host,
)
from .retry import may_retry_request, pick_for_retry, should_retry, surely_stands

__all__ = ["Exchange"]

RandomFraction = Callable[[], float]

NO_TIMEOUTS = RouteTimeouts()
_NO_CLUSTERS: Mapping[str, Cluster] = MappingProxyType({})


class Exchange:
    """The state of one request. It is the `PickContext` of its picks.

    Args:
        head: The request.
        route: The route that matched; it forwards.
        forward: How it forwards.
        destination: The chosen cluster of a split, with its header changes.
        cluster: That cluster.
        random_fraction: Uniform in [0, 1).

    Attributes:
        retry_policy: Of the route, or of its virtual host, with what the caller asks for.
        timeouts: Of this request.
        attempts: How many were begun.
        deadline: When the route's time is over, on the engine's clock; None is no limit.
        delay_seconds, fault_tally: How long to hold the request back first (fault injection), and what to tell after.
        table, clusters: Where the route was found and what it may lead to, for internal redirects and mirrors.
        redirects, routes_taken: Internal redirects that led here, and the names of their routes.
        hedges: A per-try timeout starts another attempt beside the slow one, which goes on.
        tells_deadline: Attempts say how long the response may take.
        added_headers: That every attempt carries besides.
        endpoint, own_address: Of the last attempt: whom to, and our side of the connection.
        limit_flag: Envoy's response flag where a failure would have been retried, but for a limit; else empty.
        set_cookie: A Set-Cookie that the response must carry, for a hash key that was made here.
        traced: What was decided of its trace; None leaves it to the application's OpenTelemetry.
    """

    __slots__ = (
        "_changed",
        "_has_resent",
        "_last_failure",
        "_previous",
        "_retries_under_way",
        "added_headers",
        "attempts",
        "breaker",
        "cluster",
        "clusters",
        "deadline",
        "deadline_failure",
        "delay_seconds",
        "destination",
        "endpoint",
        "fault_tally",
        "forward",
        "hash_key",
        "head",
        "hedges",
        "limit_flag",
        "metadata_match",
        "own_address",
        "pick_number",
        "random_fraction",
        "redirects",
        "retry_policy",
        "route",
        "routes_taken",
        "session_endpoint",
        "set_cookie",
        "table",
        "tells_deadline",
        "timeouts",
        "traced",
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
        self.random_fraction = random_fraction
        self.added_headers: Sequence[tuple[bytes, bytes]] = ()
        self.endpoint: Endpoint | None = None
        self.own_address = self.limit_flag = self.set_cookie = self.session_endpoint = ""
        self.attempts = 0
        self.deadline: float | None = None
        self.deadline_failure = Failure.ROUTE_TIMEOUT
        self.delay_seconds = 0.0
        self.fault_tally: FaultTally | None = None
        self.pick_number = 0
        self.hash_key: int | None = None
        self.table: RouteTable | None = None
        self.traced: Traced | None = None
        self.clusters: Mapping[str, Cluster] = _NO_CLUSTERS
        self.redirects = 0
        self.routes_taken: tuple[str, ...] = ()
        self.breaker = cluster.breaker
        self.hedges = self.tells_deadline = False
        self._retries_under_way = 0
        self._has_resent = False
        self._previous: tuple[Endpoint, ...] = ()
        self._last_failure: Failure | None = None
        self._changed: RequestHead | None = None
        if forward is None or destination is None:
            self.retry_policy: RetryPolicy | None = None
            self.timeouts = NO_TIMEOUTS
            self.metadata_match: MetadataMatch = ()
        else:
            self._take_route(forward, destination)

    def _take_route(self, forward: CompiledForward, destination: Destination) -> None:
        """What the route, the cluster and the caller say of the request."""
        head, cluster = self.head, self.cluster
        self.metadata_match = destination.metadata_match
        self.retry_policy = forward.retry_policy
        self.timeouts = forward.timeouts if forward.timeouts_for is None else forward.timeouts_for(head)
        if forward.action.high_priority:
            self.breaker = cluster.high_breaker
        if destination.filters.session is not None:
            self.session_endpoint = sessions.endpoint_of(destination.filters.session, head)
        hash_key = cluster.hash_key or forward.hash_key
        if hash_key is not None:
            key = hash_key(head)
            if key is not None:
                self.hash_key, self.set_cookie = key.value, key.set_cookie
        if caller_headers.has_caller_headers(head.raw_headers):
            self.retry_policy = caller_headers.retry_policy_for(head, self.retry_policy)
            self.timeouts = caller_headers.timeouts_for(head, self.timeouts)
            self.hedges = caller_headers.hedges(head, forward.hedge_on_per_try_timeout)
            self.head = caller_headers.without_caller_headers(head)
        else:
            self.hedges = forward.hedge_on_per_try_timeout
        if self.retry_policy is None or self.timeouts.per_try is None:
            self.hedges = False

    def header(self, name: str) -> str | None:
        """See `PickContext`."""
        return self.head.header(name)

    def begin(self, now: float) -> Attempt | LocalReply:
        """The first attempt, or the reply where none can be made."""
        if inbound.current.get() is not None:
            self._bound_by_inbound_deadline()
        timeouts = self.timeouts
        if timeouts.route is not None:
            self.deadline = now + timeouts.route
        if timeouts.stream is not None and (timeouts.route is None or timeouts.stream < timeouts.route):
            self.deadline, self.deadline_failure = now + timeouts.stream, Failure.STREAM_DURATION
        cluster = self.cluster
        if cluster.drop_share and (drawn := self.random_fraction()) < cluster.drop_share:
            if cluster.load is not None and cluster.endpoints_config is not None:
                cluster.load.dropped(drawn, cluster.endpoints_config.drop_categories)
            return self.changed_reply(dropped(cluster.name, cluster.drop_share))
        if cluster.config.health_checks:
            cluster.last_used_at = now
        return self.next_attempt(now)

    def _bound_by_inbound_deadline(self) -> None:
        """What this request is sent for has a deadline of its own; it bounds the response to its end."""
        left, stream = inbound.remaining(), self.timeouts.stream
        if left is not None:
            self.tells_deadline = True
            if stream is None or left < stream:
                self.timeouts = replace(self.timeouts, stream=left)

    def next_attempt(self, now: float) -> Attempt | LocalReply:
        """An attempt on a newly picked endpoint, or the reply where none can be picked."""
        endpoint = self._pick()
        if endpoint is None:
            return self.changed_reply(no_healthy_endpoint(self.cluster.name, self.cluster.problem))
        if self.breaker.requests >= self.breaker.max_requests:
            return self.overflow_reply("max_requests")
        return self._attempt_on(endpoint, now)

    def resend(self, attempt: Attempt, now: float) -> Attempt | None:
        """One more attempt, on the endpoint of one that a kept connection has failed; None where there may be none.

        `resend_over` must be called when it has ended.
        """
        policy, breaker = self.retry_policy, self.breaker
        if (
            self._has_resent
            or (policy is not None and self.attempts > policy.num_retries)
            or (self.deadline is not None and now >= self.deadline)
            or not breaker.may_retry
            or breaker.requests >= breaker.max_requests
        ):
            return None
        self._has_resent = True
        breaker.retries += 1
        breaker.retried += 1
        take_back(attempt.endpoint)
        return self._attempt_on(attempt.endpoint, now)

    def resend_over(self) -> None:
        """The attempt that `resend` gave has brought a response's head, or failed."""
        self.breaker.retries -= 1

    def _attempt_on(self, endpoint: Endpoint, now: float) -> Attempt:
        breaker = self.breaker
        self.attempts += 1
        self.endpoint, self.own_address = endpoint, ""
        load = endpoint.cluster.load
        if load is not None:
            load.of(endpoint).issued += 1
        head, forward = self.head, self.forward
        headers = head.raw_headers
        deadline, failure = self.deadline, self.deadline_failure
        if forward is None:
            return Attempt(endpoint, head.target, headers, deadline, failure, self.attempts, breaker)
        timeouts = self.timeouts
        if timeouts.per_try is not None and not self.hedges and (deadline is None or now + timeouts.per_try < deadline):
            deadline, failure = now + timeouts.per_try, Failure.PER_TRY_TIMEOUT
        if self.destination is not None and not self.destination.is_plain:
            head = self._changed_head(forward, self.destination)
            headers = head.raw_headers
            if forward.action.auto_host_rewrite and endpoint.config.hostname:
                headers = with_original_host(headers, head.authority)
                if forward.action.append_x_forwarded_host:
                    headers = with_forwarded_host(headers, head.authority)
                headers = with_host(headers, endpoint.config.hostname)
        if timeouts.announced is not None:
            headers = with_header(headers, b"grpc-timeout", format_grpc_timeout(timeouts.announced))
        if self.tells_deadline and deadline is not None:
            # As Envoy says it (http_filters/router_filter), so that the next one has no more time than is left.
            milliseconds = max(1, round((deadline - now) * 1000))
            headers = with_header(headers, b"x-envoy-expected-rq-timeout-ms", b"%d" % milliseconds)
        if forward.include_request_attempt_count:
            headers = with_header(headers, b"x-envoy-attempt-count", b"%d" % self.attempts)
        if forward.include_is_timeout_retry_header and self._last_failure is Failure.PER_TRY_TIMEOUT:
            headers = with_header(headers, b"x-envoy-is-timeout-retry", b"true")
        if self.added_headers:
            headers = [*headers, *self.added_headers]
        attempt = Attempt(endpoint, head.target, headers, deadline, failure, self.attempts, breaker)
        if self.retry_policy is not None:
            self._previous += (endpoint,)
        return attempt

    def send_elsewhere(self, now: float) -> Attempt | LocalReply:
        """An attempt in the place of one that its peer never took up (RFC 9113 section 6.8); both count as one."""
        self.attempts -= 1
        if self.endpoint is not None:
            take_back(self.endpoint)
        return self.next_attempt(now)

    @property
    def idle_failure(self) -> Failure:
        """Which of the two idle timeouts comes first."""
        is_per_try = self.timeouts.is_per_try_idle_shorter
        return Failure.PER_TRY_IDLE_TIMEOUT if is_per_try else Failure.IDLE_TIMEOUT

    def response_headers(
        self, attempt: Attempt, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> Sequence[tuple[bytes, bytes]]:
        """The headers of a response as the caller gets them."""
        forward, destination = self.forward, self.destination
        if forward is None or destination is None:
            return headers
        if forward.include_attempt_count_in_response:
            headers = with_header(headers, b"x-envoy-attempt-count", b"%d" % self.attempts)
        if destination.response_levels:
            headers = self.changed_response(attempt.endpoint, status, headers)
        if self.set_cookie:
            headers = [*headers, (b"set-cookie", self.set_cookie.encode("latin-1"))]
        if destination.filters.session is not None:
            name = attempt.endpoint.name
            headers = sessions.remember(destination.filters.session, self.head, self.session_endpoint, name, headers)
        return headers

    def changed_response(
        self, endpoint: Endpoint | None, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> Sequence[tuple[bytes, bytes]]:
        """The headers of a response with the changes that the route makes to them; `endpoint` None is not known."""
        forward, destination = self.forward, self.destination
        if forward is None or destination is None or not destination.response_levels:
            return headers
        context = self._context(endpoint)
        hostname = endpoint.config.hostname if endpoint is not None else ""
        if forward.action.auto_host_rewrite and hostname:
            head = context.head
            context.head = RequestHead(head.method, head.scheme, hostname, head.target, head.raw_headers)
        context.status = status
        return apply_mutations(destination.response_levels, headers, context)

    def is_final(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a response surely stands; a quick look, which may say no of one that does."""
        return surely_stands(self.forward, self.retry_policy, status, headers)

    def attempt_done(self, outcome: Outcome, now: float) -> bool:
        """Whether to try again after `outcome` (RetryPolicy; the back-off is tenacity's part, see `retrying`)."""
        policy = self.retry_policy
        self._last_failure = outcome.failure
        self.retries_over()
        if (
            policy is None
            or not outcome.can_replay
            or (self.deadline is not None and now >= self.deadline)
            or not should_retry(policy, outcome)
            or not may_retry_request(policy, self.head)
        ):
            return False
        # Envoy: RetryStateImpl::shouldRetry, NoRetryLimitExceeded and NoOverflow.
        self.limit_flag = "URX" if self.attempts > policy.num_retries else "" if self.breaker.may_retry else "UO"
        if self.limit_flag:
            self.breaker.overflows += self.limit_flag == "UO"
            return False
        self.breaker.retries += 1
        self._retries_under_way += 1
        return True

    def hedge(self, now: float) -> Attempt | LocalReply | None:
        """One more attempt beside those under way, as a try took too long; None where there may be none.

        HedgePolicy.hedge_on_per_try_timeout: it is a retry, but the slow one goes on, and the first good answer counts.
        """
        policy = self.retry_policy
        if policy is None or self.attempts > policy.num_retries or not self.breaker.may_retry:
            return None
        if self.deadline is not None and now >= self.deadline:
            return None
        self.breaker.retries += 1
        self._retries_under_way += 1
        self._last_failure = Failure.PER_TRY_TIMEOUT
        return self.next_attempt(now)

    def is_good(self, outcome: Outcome) -> bool:
        """Whether an outcome ends a hedged request: the policy would not retry it."""
        policy = self.retry_policy
        return policy is None or not should_retry(policy, outcome)

    def retries_over(self) -> None:
        """No retry is under way any more; to be called when the exchange is over."""
        self.breaker.retries -= self._retries_under_way
        self._retries_under_way = 0

    @property
    def max_request_bytes(self) -> int | None:
        """The longest body that may be sent, which is then held until it is whole; None is no limit."""
        return self.destination.filters.max_request_bytes if self.destination is not None else None

    def too_large_reply(self) -> LocalReply:
        """What a request with a longer body is answered with."""
        return self.changed_reply(payload_too_large(self.max_request_bytes or 0))

    def overflow_reply(self, limit: str) -> LocalReply:
        """What a request is answered with that a circuit breaker refuses."""
        self.breaker.overflows += 1
        if self.cluster.load is not None:
            self.cluster.load.refused += 1
        return self.changed_reply(overflow(self.cluster.name, limit))

    def timeout_reply(self, failure: Failure) -> LocalReply:
        """What is answered when the last attempt ended by a timeout."""
        return self.changed_reply(timeout_reply(failure, self.timeouts))

    def changed_reply(self, reply: LocalReply) -> LocalReply:
        """An answer in the upstream's place, with the route's changes of response headers."""
        return (
            reply if self.destination is None else reply.mutated(self.destination.response_levels, self._context(None))
        )

    def _pick(self) -> Endpoint | None:
        self.pick_number = 0
        if self._previous:
            assert self.retry_policy is not None
            self.breaker.retried += 1
            return pick_for_retry(self, self.cluster, self.retry_policy, self._previous)
        if self.session_endpoint:
            endpoint = self.cluster.override(self.session_endpoint)
            if endpoint is not None or self._session_is_strict:
                return endpoint
        return self.cluster.pick(self)

    @property
    def _session_is_strict(self) -> bool:
        session = self.destination.filters.session if self.destination is not None else None
        return session is not None and session.strict

    @property
    def outgoing_head(self) -> RequestHead:
        """The request as it goes upstream, but for what each attempt adds."""
        if self.forward is None or self.destination is None or self.destination.is_plain:
            return self.head
        return self._changed_head(self.forward, self.destination)

    def _changed_head(self, forward: CompiledForward, destination: Destination) -> RequestHead:
        """The request with its route's changes; made once, since every attempt sends the same."""
        if self._changed is None:
            self._changed = changed_request(forward, destination, self.head, self._context(None))
        return self._changed

    def _context(self, endpoint: Endpoint | None) -> FormatContext:
        return format_context(self._changed or self.head, self.cluster, self.route, self.attempts, endpoint)
