"""What clients and servers need of a Mesh, and what it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from ..exchange import Directory
from ..security import Secrets

if TYPE_CHECKING:
    from ..access_log import AccessLogs
    from ..telemetry.istio_metrics import IstioMetrics
    from ..telemetry.span_tags import SpanTags

__all__ = ["HasCertificates", "HasRuntime", "LocalReplies", "Runtime", "Transport", "UnknownHosts"]

LocalReplies = Literal["respond", "raise"]
UnknownHosts = Literal["allow", "deny"]


class Transport(Protocol):
    """Something that holds connections."""

    def _after_fork(self) -> None:
        """Called in a forked child, which must leave the parent's connections alone."""

    def _drop_removed(self) -> None:
        """Called on the control thread: configuration has changed. Endpoints may be gone, and idle connections to them
        are to be closed; so are those of a server that its policy has no place for."""


class HasCertificates(Protocol):
    """Something whose connections are secured with certificates that may change."""

    def _look_at_certificates(self) -> None:
        """Called now and then, on the control thread: certificates may have changed."""


class Runtime(Protocol):
    """What a transport needs of a Mesh."""

    directory: Directory
    local_replies: LocalReplies
    unknown_hosts: UnknownHosts
    metrics: IstioMetrics | None
    access_logs: AccessLogs | None

    def listener_names(
        self, host: str, port: int, *, port_is_explicit: bool, authority: str | None = None
    ) -> tuple[str, ...]:
        """Names of the listeners that may stand for a target, best first."""

    def when_settled(self, names: Sequence[str], callback: Callable[[], None]) -> Callable[[], None]:
        """Ask for listeners, and call back (on another thread) when all are there or known to be missing.

        Returns a function that cancels the call.
        """

    def register(self, transport: Transport) -> None:
        """Have `transport._after_fork` called in a forked child, and `_drop_removed` when endpoints may be gone."""

    def watch_certificates(self, transport: HasCertificates) -> None:
        """Have `transport._look_at_certificates` called now and then, as long as it lives."""

    @property
    def secrets(self) -> Secrets:
        """What names of certificates stand for."""

    def hint(self, host: str, port: int) -> str:
        """What the mesh has that is like a host that it does not know, for people; empty where there is nothing."""

    @property
    def problem(self) -> str:
        """Why configuration may not come; empty where all is well."""

    @property
    def span_tags(self) -> SpanTags:
        """What spans say of this process."""


class HasRuntime(Protocol):
    """A Mesh."""

    @property
    def _runtime(self) -> Runtime:
        """Its inner side."""
