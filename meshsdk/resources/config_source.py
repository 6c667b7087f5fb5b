"""Where a resource comes from that another one names (envoy.config.core.v3.ConfigSource).

Most come by the stream that brought what names them. One from a file, or from a server of its own, is asked for by a
name that says so, `path:/etc/eds.yaml#shop` or `server:…#shop`: whoever walks from resource to resource knows nothing
of sources, and whoever fetches them reads the source from the name. Only `sourced_name` writes such names, for routes,
endpoints and secrets; of other types a name is what it is, whoever wrote it: a request may name a cluster.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

from msgspec import Struct

from ..errors import ResourceError
from ..xdstp import normalised

__all__ = ["FileOrigin", "ServerOrigin", "origin_of", "sourced_name"]

_PATH, _SERVER = "path:", "server:"

# ApiConfigSource.ApiType, and whether it is incremental and aggregated.
_API_TYPES = {2: (False, False), 3: (True, False), 5: (False, True), 6: (True, True)}

_CREDENTIAL_FILES = ("root_certs", "private_key", "cert_chain")


class FileOrigin(Struct, frozen=True, gc=False):
    """A file with a DiscoveryResponse (PathConfigSource).

    Attributes:
        path: Of the file.
        watched_directory: In which something is moved when the file is another one; empty looks at the file alone.
    """

    path: str
    watched_directory: str = ""


class ServerOrigin(Struct, frozen=True, gc=False):
    """A management server of its own (ApiConfigSource).

    Attributes:
        target: As gRPC names it (GoogleGrpc).
        is_incremental: Which of the two variants it speaks.
        is_aggregated: It is asked by ADS, and not by the service of the resource's type.
        is_secured: By TLS.
        root_certs, private_key, cert_chain: Files; empty ones are left out.
        cluster: That leads to it (EnvoyGrpc); then there is no target, and the cluster says how it is secured.
    """

    target: str
    is_incremental: bool = False
    is_aggregated: bool = False
    is_secured: bool = False
    root_certs: str = ""
    private_key: str = ""
    cert_chain: str = ""
    cluster: str = ""


def sourced_name(source: Any, name: str, where: str) -> str:
    """The name to ask for: as it is where the resource comes by the same stream, else with its source.

    Raises:
        ResourceError: It is to come in a way that is not carried out.
    """
    which = source.WhichOneof("config_source_specifier")
    if which in (None, "ads", "self"):
        if origin_of(name) is not None:
            raise ResourceError(where, f"{name[:100]!r} is a name that says a source, and is not to come from there")
        return normalised(name)
    if which == "path":
        return f"{_PATH}{urllib.parse.quote(source.path)}#{name}"
    if which == "path_config_source":
        message = source.path_config_source
        if not message.path:
            raise ResourceError(f"{where}.path_config_source.path", "must be set")
        watched = message.watched_directory.path
        watching = f"?{urllib.parse.quote(watched)}" if watched else ""
        return f"{_PATH}{urllib.parse.quote(message.path)}{watching}#{name}"
    if which == "api_config_source":
        origin = _parse_server(source.api_config_source, f"{where}.api_config_source")
        fields = {field: getattr(origin, field) for field in origin.__struct_fields__}
        told = {key: value if isinstance(value, str) else "1" for key, value in fields.items() if value}
        return f"{_SERVER}{urllib.parse.urlencode(told)}#{name}"
    raise ResourceError(f"{where}.{which}", "is a source that meshsdk does not know")


def origin_of(name: str) -> tuple[FileOrigin | ServerOrigin, str] | None:
    """The source that `sourced_name` wrote into a name, and the name there; None where it comes by the same stream."""
    if not name.startswith((_PATH, _SERVER)) or "#" not in name:
        return None
    origin, _, own = name.partition("#")
    if origin.startswith(_PATH):
        path, _, watched = origin.removeprefix(_PATH).partition("?")
        return FileOrigin(urllib.parse.unquote(path), urllib.parse.unquote(watched)), own
    told = dict(urllib.parse.parse_qsl(origin.removeprefix(_SERVER)))
    return ServerOrigin(
        told.get("target", ""),
        bool(told.get("is_incremental")),
        bool(told.get("is_aggregated")),
        bool(told.get("is_secured")),
        *(told.get(key, "") for key in (*_CREDENTIAL_FILES, "cluster")),
    ), own


def _parse_server(message: Any, where: str) -> ServerOrigin:
    if message.api_type not in _API_TYPES:
        raise ResourceError(f"{where}.api_type", "must be GRPC, DELTA_GRPC or their aggregated variants")
    is_incremental, is_aggregated = _API_TYPES[message.api_type]
    if not message.grpc_services:
        raise ResourceError(f"{where}.grpc_services", "must name a server")
    path = f"{where}.grpc_services[0]"
    if message.grpc_services[0].WhichOneof("target_specifier") == "envoy_grpc":
        cluster = message.grpc_services[0].envoy_grpc.cluster_name
        if not cluster:
            raise ResourceError(f"{path}.envoy_grpc.cluster_name", "must be set")
        return ServerOrigin("", is_incremental, is_aggregated, cluster=normalised(cluster))
    google = message.grpc_services[0].google_grpc
    if not google.target_uri:
        raise ResourceError(f"{path}.google_grpc.target_uri", "must be set")
    if google.call_credentials:
        raise ResourceError(f"{path}.google_grpc.call_credentials", "are refused: a token is for the bootstrap to name")
    origin = ServerOrigin(google.target_uri, is_incremental, is_aggregated)
    which = google.channel_credentials.WhichOneof("credential_specifier")
    if which in (None, "local_credentials"):
        return origin
    if which != "ssl_credentials":
        raise ResourceError(f"{path}.google_grpc.channel_credentials.{which}", "is refused; use ssl_credentials")
    files = {}
    for field in _CREDENTIAL_FILES:
        data = getattr(google.channel_credentials.ssl_credentials, field)
        if data.WhichOneof("specifier") not in (None, "filename"):
            raise ResourceError(
                f"{path}.google_grpc.channel_credentials.ssl_credentials.{field}", "must be a filename, or left out"
            )
        files[field] = data.filename
    return ServerOrigin(google.target_uri, is_incremental, is_aggregated, True, **files)
