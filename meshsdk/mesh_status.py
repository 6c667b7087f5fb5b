"""The shape of what `Mesh.status` returns, and `meshsdk status --json` prints.

Names are stable: none goes or changes its meaning without a word in the changelog; others may come.
"""

from typing import NotRequired, TypedDict

__all__ = [
    "EndpointStatus",
    "GrpcStatus",
    "IdentityStatus",
    "LastGoodStatus",
    "LoadReportStatus",
    "MeshStatus",
    "ResourceStatus",
]


class ResourceStatus(TypedDict):
    """One resource of the configuration.

    Attributes:
        type: Its type's URL.
        status: REQUESTED, DOES_NOT_EXIST, ACKED, NACKED, TIMEOUT or RECEIVED_ERROR, as in
            envoy.admin.v3.ClientResourceStatus.
        version: As its source says; empty before it has come.
        error: Why its newest version was refused, or why it is not there.
        notes: Fields that are known and not carried out.
        kept_seconds: Since a server last said so, of what a process before this one has kept; None of all else.
    """

    type: str
    name: str
    status: str
    version: str
    error: str
    notes: list[str]
    kept_seconds: float | None


class EndpointStatus(TypedDict):
    """One endpoint of a cluster.

    Attributes:
        address: `host:port`.
        health: As configuration says: UNKNOWN, HEALTHY, UNHEALTHY, DRAINING, TIMEOUT or DEGRADED.
        is_ejected: Outlier detection has taken it out.
        locality: `region/zone/sub_zone`, as far as it has them.
        active_requests: Attempts that are under way.
    """

    address: str
    priority: int
    health: str
    is_ejected: bool
    weight: int
    locality: str
    active_requests: int


class IdentityStatus(TypedDict):
    """Who this process is.

    Attributes:
        spiffe_id: In its certificate; empty before that is used.
        issued_at, expires_at: Of the certificate, by ISO 8601; empty before it is used.
        trust_domains: Others that are trusted (SPIFFE federation).
        problem: Why it could not be had or renewed.
    """

    spiffe_id: str
    issued_at: str
    expires_at: str
    trust_domains: list[str]
    problem: str


class GrpcStatus(TypedDict):
    """What grpc-core, which carries gRPC channels, makes of the configuration.

    Attributes:
        refused: Each resource that it has refused: `type`, `name` and `error`.
        notes: What of the configuration channels do not carry out.
        problems: Certificates that cannot be used, and why.
    """

    refused: list[dict[str, str]]
    notes: list[str]
    problems: dict[str, str]


class LastGoodStatus(TypedDict):
    """What `cache_dir` keeps (docs/last-known-good.md).

    Attributes:
        in_use: How many resources are used that a process before this one has kept.
        age_seconds: Of the oldest of them; None where there is none.
        saved_at: When this process wrote last, in seconds since 1970; None before.
        resources, bytes: What is in the file.
        not_kept: By type, why something is not kept.
        problem: Why what was kept is not used, or nothing can be kept.
    """

    path: str
    in_use: int
    age_seconds: float | None
    max_age_seconds: float
    saved_at: float | None
    resources: int
    bytes: int
    not_kept: dict[str, str]
    problem: str


class LoadReportStatus(TypedDict):
    """Who is told of load (docs/load-reports.md).

    Attributes:
        clusters: That are told.
        interval_seconds: How often; None before the server has said it.
        reports: How many were sent.
    """

    server: str
    clusters: list[str]
    interval_seconds: float | None
    reports: int
    problem: str


class MeshStatus(TypedDict):
    """What `Mesh.status` returns.

    Attributes:
        version: Counts the changes of the configuration in use.
        problem: Why it may not be current, such as a management server that is away; empty where all is well.
        notes: Of the bootstrap: what of it is not carried out.
        failures: Faults of meshsdk's own that the control thread has survived.
        resources: All that were asked for.
        clusters: Endpoints by the cluster's name.
        identity: Where this process has one.
        grpc: Where gRPC channels are used.
        last_good: With `cache_dir`.
        load_reports: Where some cluster asks for them.
    """

    version: int
    problem: str
    notes: list[str]
    failures: int
    resources: list[ResourceStatus]
    clusters: dict[str, list[EndpointStatus]]
    identity: NotRequired[IdentityStatus]
    grpc: NotRequired[GrpcStatus]
    last_good: NotRequired[LastGoodStatus]
    load_reports: NotRequired[list[LoadReportStatus]]
