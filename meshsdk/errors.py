"""Every error that meshsdk raises.

    MeshError
    ├── BootstrapError          the bootstrap document is wrong           (names the JSON path)
    ├── ConfigError             a document of a YAML folder is wrong      (names file, document and field)
    ├── ResourceError           an xDS resource is invalid                (names the resource and the field)
    ├── IdentityError           the process's own identity cannot be had (says why)
    ├── UnsupportedFeatureError something valid that meshsdk refuses      (names it and what to do instead)
    └── RequestError            one request cannot be sent as configured
        ├── NoRouteError            no virtual host or route matches, or the mesh does not know the host
        ├── NoHealthyEndpointError  the cluster has no endpoint that may be picked
        ├── CircuitOpenError        a circuit breaker of the cluster is open
        ├── RequestTimeoutError     the route's timeout ran out
        └── PeerIdentityError       the peer is not who the cluster's TLS settings say it must be

Those below RequestError are, when they leave an httpx transport, also instances of the nearest httpx exception
(`meshsdk.http.of_httpx`; httpx2's in `meshsdk.httpx2`), so that `except httpx.TransportError` keeps working.
"""

from __future__ import annotations

from .one_line import one_line

__all__ = [
    "BootstrapError",
    "CircuitOpenError",
    "ConfigError",
    "IdentityError",
    "MeshError",
    "NoHealthyEndpointError",
    "NoRouteError",
    "PeerIdentityError",
    "RequestError",
    "RequestTimeoutError",
    "ResourceError",
    "UnsupportedFeatureError",
]


class MeshError(Exception):
    """Base of all errors of this library.

    Args:
        message: In one line: names in it come from certificates, files and servers, and are escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class BootstrapError(MeshError):
    """A Mesh cannot begin with what it was given: its bootstrap document, or what stands in the place of one.

    Args:
        where: JSON path of the wrong value, such as `xds_servers[0].server_uri`; empty for what is none of a document.
        problem: What is wrong there, and what is expected.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"bootstrap: {where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem


class ConfigError(MeshError):
    """A document of a configuration folder cannot be used. `where` names file, document and field."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class ResourceError(MeshError):
    """An xDS resource is invalid.

    Args:
        field: Path of the wrong field from the resource's message on, such as
            `RouteConfiguration.virtual_hosts[0].domains`.
        problem: What is wrong there.
        resource: The resource's name, where it is known.
    """

    def __init__(self, field: str, problem: str, resource: str = "") -> None:
        super().__init__(f"{resource}: {field}: {problem}" if resource else f"{field}: {problem}")
        self.field = field
        self.problem = problem
        self.resource = resource

    def named(self, resource: str) -> ResourceError:
        """The same error, with the name of the resource it was found in.

        Args:
            resource: Its name.
        """
        return ResourceError(self.field, self.problem, resource)


class IdentityError(MeshError):
    """The process's own certificate cannot be had, or cannot be used. The message says why, and what to look at."""


class UnsupportedFeatureError(MeshError):
    """Something that is valid, and that meshsdk refuses rather than do half of it."""


class RequestError(MeshError):
    """A request that the mesh's configuration does not let out.

    Attributes:
        status: The HTTP status that Envoy would answer with.
        flag: Envoy's response flag, such as `NR` or `UH`
            (Envoy docs, configuration/observability/access_log/usage, RESPONSE_FLAGS).
    """

    status = 503
    flag = ""

    def __init__(self, message: str, *, status: int | None = None, flag: str | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status
        if flag is not None:
            self.flag = flag


class NoRouteError(RequestError):
    """No virtual host or route matches the request."""

    status = 404
    flag = "NR"


class NoHealthyEndpointError(RequestError):
    """The cluster has no endpoint that may be picked, or is not known."""

    flag = "UH"


class CircuitOpenError(RequestError):
    """A circuit breaker of the cluster is open."""

    flag = "UO"


class RequestTimeoutError(RequestError):
    """The route's timeout ran out before the response began."""

    status = 504
    flag = "UT"


class PeerIdentityError(RequestError):
    """The peer's certificate does not prove the identity that the cluster asks for."""

    flag = "UF"
