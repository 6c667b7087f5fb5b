"""The bootstrap: where this process gets its configuration, and who it says it is.

The format is the one that gRPC defines for its xDS clients (gRFC A27, A29, A36, A47, A65, A97), so a workload that runs
gRPC proxyless today needs no change. Unknown keys are ignored, as gRPC does; a known key with a wrong value is a
BootstrapError that names its JSON path.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from .errors import BootstrapError
from .node import Locality, Node
from .xdstp import filled_in

__all__ = [
    "Authority",
    "Bootstrap",
    "CertificateProvider",
    "ChannelCredentials",
    "XdsServer",
    "load_bootstrap",
    "parse_bootstrap",
]

BOOTSTRAP_PATH_VARIABLE = "GRPC_XDS_BOOTSTRAP"
BOOTSTRAP_JSON_VARIABLE = "GRPC_XDS_BOOTSTRAP_CONFIG"

# gRFC A88: "will also guard whether we default to ignoring resource deletion".
DATA_ERRORS_VARIABLE = "GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING"

# grpc-core is given a bootstrap through the environment (`grpc.process_bootstrap`); that one is not for us to read.
ENVIRONMENT_LOCK = threading.RLock()

# The one listener that istiod gives a sidecar for all that comes in.
VIRTUAL_INBOUND = "virtualInbound"

# gRFC A27 leaves the list open; these are the kinds meshsdk can use. `google_default` is a known kind that needs
# Google's own credential chain, so it is refused by name rather than skipped like an unknown one.
_USABLE_CREDENTIALS = ("insecure", "tls")
_REFUSED_CREDENTIALS = ("google_default",)
_TOKEN_FILE = "jwt_token_file"


class ChannelCredentials(Struct, frozen=True):
    """How the channel to a management server is secured (gRFC A27, A65).

    Attributes:
        kind: `insecure` or `tls`.
        ca_certificate_file: PEM file of trusted roots; empty means the system's.
        certificate_file: PEM file of this process's certificate chain; empty means none is shown.
        private_key_file: PEM file of its key.
    """

    kind: str
    ca_certificate_file: str = ""
    certificate_file: str = ""
    private_key_file: str = ""


class XdsServer(Struct, frozen=True):
    """A management server, in the order of preference in which the bootstrap lists them.

    Attributes:
        token_files: Files whose tokens are shown with each stream (call_creds of type jwt_token_file, gRFC A97).
        unknown_call_credentials: Types of call_creds that are left out.
    """

    uri: str
    credentials: ChannelCredentials
    features: frozenset[str] = frozenset()
    token_files: tuple[str, ...] = ()
    unknown_call_credentials: tuple[str, ...] = ()

    @property
    def ignores_resource_deletion(self) -> bool:
        """Resources that the server deletes are kept in use (gRFC A53).

        gRFC A88 makes that the rule, but where `fail_on_data_errors` is a feature. Until clients of gRPC do so without
        being told by a variable of the environment, it takes that variable here as well.
        """
        if self.fails_on_data_errors:
            return False
        is_told = os.environ.get(DATA_ERRORS_VARIABLE, "").lower() == "true"
        return is_told or "ignore_resource_deletion" in self.features

    @property
    def fails_on_data_errors(self) -> bool:
        """gRFC A88: what is refused, deleted or forbidden is not used any longer, though it has been good."""
        return "fail_on_data_errors" in self.features

    @property
    def tells_of_missing_resources(self) -> bool:
        """gRFC A88: it says what it does not have, so that one that does not come is late, and not missing."""
        return "resource_timer_is_transient_error" in self.features

    @property
    def is_incremental(self) -> bool:
        """It is spoken to incrementally ("delta"), which gRPC's clients do not, and so have no feature for."""
        return "meshsdk.incremental" in self.features

    @property
    def is_of_the_world(self) -> bool:
        """It is spoken to by the state of the world, also where incremental is the usual way."""
        return "meshsdk.state_of_the_world" in self.features


class Authority(Struct, frozen=True):
    """Servers and naming of one xdstp authority (gRFC A47)."""

    servers: tuple[XdsServer, ...]
    client_listener_template: str


class CertificateProvider(Struct, frozen=True):
    """A certificate provider instance (gRFC A29): a plugin's name and its configuration."""

    plugin: str
    config: Mapping[str, Any]


class Bootstrap(Struct, frozen=True):
    """A whole, validated bootstrap."""

    servers: tuple[XdsServer, ...] = ()
    node: Node = Node()
    authorities: Mapping[str, Authority] = field(default_factory=dict)
    certificate_providers: Mapping[str, CertificateProvider] = field(default_factory=dict)
    client_listener_template: str = "%s"
    server_listener_template: str = ""

    def listener_name(self, target: str, authority: str | None = None) -> str:
        """The name of the client listener of `target` (host and port).

        Args:
            target: The target.
            authority: Whose listener it is (gRFC A47); None takes the default template.

        Raises:
            BootstrapError: There is no such authority.
        """
        if authority is None:
            return filled_in(self.client_listener_template, target)
        return filled_in(self._authority(authority).client_listener_template, target)

    def servers_of(self, authority: str | None) -> tuple[XdsServer, ...]:
        """The servers of an authority's resources (gRFC A47); None is that of names without any.

        Raises:
            BootstrapError: There is no such authority.
        """
        return self.servers if authority is None else self._authority(authority).servers or self.servers

    def _authority(self, name: str) -> Authority:
        found = self.authorities.get(name)
        if found is None:
            known = ", ".join(map(repr, sorted(self.authorities))) or "none"
            raise BootstrapError("authorities", f"has no {name!r} (it has: {known})")
        return found

    def listener_names(
        self, host: str, port: int, *, port_is_explicit: bool, authority: str | None = None
    ) -> tuple[str, ...]:
        """Names of the listeners that may stand for a target: as written, then as a Kubernetes short name.

        A name with a dot at its end is the same host, and no short name. A sidecar's listeners have other names, and
        are found by host and port (`discovery.outbound`).

        Raises:
            BootstrapError: There is no such authority.
        """
        if self.node.is_sidecar:
            if authority is not None:
                # istiod alone tells sidecars of listeners.
                raise BootstrapError("authorities", "a node of profile sidecar has no listeners of other authorities")
            return (f"{host.lower()}:{port}",)
        is_absolute = host.endswith(".")
        host = host.lower().removesuffix(".")
        targets = [f"{host}:{port}"] if port_is_explicit else [host, f"{host}:{port}"]
        full = None if is_absolute else self.node.complete(host)
        if full is not None:
            targets.append(f"{full}:{port}")
        return tuple(self.listener_name(target, authority) for target in targets)

    def server_listener_name(self, address: str, port: int) -> str:
        """The name of the listener of a server's socket (server_listener_resource_name_template, gRFC A36).

        Raises:
            BootstrapError: There is no template.
        """
        if self.node.is_sidecar:
            return VIRTUAL_INBOUND
        template = self.server_listener_template
        if not template:
            raise BootstrapError(
                "server_listener_resource_name_template", "must be set for a server to find its listener"
            )
        host = f"[{address}]" if ":" in address else address
        return filled_in(template, f"{host}:{port}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What it says that is left out."""
        lists = [
            ("", self.servers),
            *((f"authorities[{key!r}].", one.servers) for key, one in self.authorities.items()),
        ]
        return tuple(
            f"bootstrap: {where}xds_servers[{index}].call_creds: {kind!r} is not known and left out; {_TOKEN_FILE!r} is"
            for where, servers in lists
            for index, server in enumerate(servers)
            for kind in server.unknown_call_credentials
        )


def load_bootstrap(source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Bootstrap | None:
    """The bootstrap from a path, a parsed document, or the environment.

    Args:
        source: Path of a JSON file, or the document itself. None looks at GRPC_XDS_BOOTSTRAP (a path), then at
            GRPC_XDS_BOOTSTRAP_CONFIG (the JSON itself), in gRPC's order.

    Returns:
        The bootstrap, or None where neither an argument nor the environment gives one.

    Raises:
        BootstrapError: The file cannot be read, or the document is wrong.
    """
    if isinstance(source, Mapping):
        return parse_bootstrap(source)
    with ENVIRONMENT_LOCK:
        path, inline = os.environ.get(BOOTSTRAP_PATH_VARIABLE), os.environ.get(BOOTSTRAP_JSON_VARIABLE)
    if source is None and not (source := path):
        return _parse_json(inline, f"the environment variable {BOOTSTRAP_JSON_VARIABLE}") if inline else None
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BootstrapError("", f"the bootstrap {os.fspath(source)} cannot be read: {error}") from error
    return _parse_json(text, os.fspath(source))


def _parse_json(text: str, origin: str) -> Bootstrap:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BootstrapError("", f"the bootstrap in {origin} is not JSON: {error}") from error
    return parse_bootstrap(document)


def parse_bootstrap(document: Any) -> Bootstrap:
    """A parsed JSON document as a Bootstrap.

    Raises:
        BootstrapError: A known key has a wrong value, or a required one is missing.
    """
    root = _typed(document, dict, "$")
    authorities = {
        name: _parse_authority(name, value, f"authorities[{name!r}]")
        for name, value in _get(root, "authorities", dict, {}).items()
    }
    providers = {
        name: _parse_certificate_provider(value, f"certificate_providers[{name!r}]")
        for name, value in _get(root, "certificate_providers", dict, {}).items()
    }
    return Bootstrap(
        servers=_parse_servers(root, "", required=True),
        node=_parse_node(_get(root, "node", dict, {})),
        authorities=authorities,
        certificate_providers=providers,
        client_listener_template=_get(root, "client_default_listener_resource_name_template", str, "") or "%s",
        server_listener_template=_get(root, "server_listener_resource_name_template", str, ""),
    )


def _parse_servers(parent: dict[str, Any], where: str, *, required: bool) -> tuple[XdsServer, ...]:
    path = f"{where}xds_servers"
    entries = _get(parent, "xds_servers", list, [], where)
    if required and not entries:
        raise BootstrapError(path, "at least one management server is needed")
    return tuple(_parse_server(entry, f"{path}[{index}]") for index, entry in enumerate(entries))


def _parse_server(value: Any, where: str) -> XdsServer:
    server = _typed(value, dict, where)
    uri = _get(server, "server_uri", str, "", f"{where}.")
    if not uri:
        raise BootstrapError(f"{where}.server_uri", "is required, such as 'istiod.istio-system.svc:15010'")
    features = _get(server, "server_features", list, [], f"{where}.")
    credentials = _parse_credentials(_get(server, "channel_creds", list, [], f"{where}."), f"{where}.channel_creds")
    path = f"{where}.call_creds"
    tokens, unknown = _parse_call_credentials(_get(server, "call_creds", list, [], f"{where}."), path)
    if tokens and credentials.kind == "insecure":
        raise BootstrapError(path, "a token is shown over TLS only; channel_creds must be of type 'tls'")
    return XdsServer(
        uri=uri,
        credentials=credentials,
        features=frozenset(_typed(item, str, f"{where}.server_features[{i}]") for i, item in enumerate(features)),
        token_files=tokens,
        unknown_call_credentials=unknown,
    )


def _parse_credentials(entries: list[Any], where: str) -> ChannelCredentials:
    """The first kind that is usable wins; gRFC A27 has a client skip those it does not know."""
    kinds = []
    for index, value in enumerate(entries):
        entry = _typed(value, dict, f"{where}[{index}]")
        kind = _get(entry, "type", str, "", f"{where}[{index}].")
        kinds.append(kind)
        if kind in _USABLE_CREDENTIALS:
            return _parse_credential(kind, _get(entry, "config", dict, {}, f"{where}[{index}]."), f"{where}[{index}]")
    refused = [kind for kind in kinds if kind in _REFUSED_CREDENTIALS]
    if refused:
        raise BootstrapError(
            where, f"{refused[0]!r} needs Google's credential chain, which meshsdk does not carry; add 'tls'"
        )
    raise BootstrapError(where, f"none of {kinds} is usable; use one of {list(_USABLE_CREDENTIALS)}")


def _parse_credential(kind: str, config: dict[str, Any], where: str) -> ChannelCredentials:
    if kind == "insecure":
        return ChannelCredentials("insecure")
    path = f"{where}.config."
    certificate = _get(config, "certificate_file", str, "", path)
    key = _get(config, "private_key_file", str, "", path)
    if bool(certificate) != bool(key):
        raise BootstrapError(f"{where}.config", "certificate_file and private_key_file go together")
    return ChannelCredentials("tls", _get(config, "ca_certificate_file", str, "", path), certificate, key)


def _parse_call_credentials(entries: list[Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files of tokens, and unknown types. gRFC A97: unlike channel_creds, all that are known are used together."""
    files, unknown = [], []
    for index, value in enumerate(entries):
        path = f"{where}[{index}]."
        entry = _typed(value, dict, f"{where}[{index}]")
        kind = _get(entry, "type", str, "", path)
        if kind != _TOKEN_FILE:
            unknown.append(kind)
            continue
        file = _get(_get(entry, "config", dict, {}, path), _TOKEN_FILE, str, "", f"{path}config.")
        if not file:
            raise BootstrapError(f"{path}config.{_TOKEN_FILE}", "is required: the path of a token")
        files.append(file)
    return tuple(files), tuple(unknown)


def _parse_node(node: dict[str, Any]) -> Node:
    locality = _get(node, "locality", dict, {}, "node.")
    return Node(
        id=_get(node, "id", str, "", "node."),
        cluster=_get(node, "cluster", str, "", "node."),
        locality=Locality(
            region=_get(locality, "region", str, "", "node.locality."),
            zone=_get(locality, "zone", str, "", "node.locality."),
            sub_zone=_get(locality, "sub_zone", str, "", "node.locality."),
        ),
        metadata=_get(node, "metadata", dict, {}, "node."),
    )


def _parse_authority(name: str, value: Any, where: str) -> Authority:
    entry = _typed(value, dict, where)
    prefix = f"xdstp://{name}/"
    template = _get(entry, "client_listener_resource_name_template", str, "", f"{where}.")
    template = template or f"{prefix}envoy.config.listener.v3.Listener/%s"
    if not template.startswith(prefix):
        raise BootstrapError(f"{where}.client_listener_resource_name_template", f"must start with {prefix!r}")
    return Authority(_parse_servers(entry, f"{where}.", required=False), template)


def _parse_certificate_provider(value: Any, where: str) -> CertificateProvider:
    entry = _typed(value, dict, where)
    plugin = _get(entry, "plugin_name", str, "", f"{where}.")
    if not plugin:
        raise BootstrapError(f"{where}.plugin_name", "is required, such as 'file_watcher'")
    return CertificateProvider(plugin, _get(entry, "config", dict, {}, f"{where}."))


_JSON_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise BootstrapError(where, f"must be {_JSON_NAMES[kind]}, not {type(value).__name__}")
    return value


def _get(parent: dict[str, Any], key: str, kind: type, default: Any, where: str = "") -> Any:
    """The value of `key`, checked; JSON null counts as absent."""
    value = parent.get(key)
    return default if value is None else _typed(value, kind, f"{where}{key}")
