"""The real istiod, asked what it makes of folders; and its answers, kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .case import Case, Client, Server

__all__ = [
    "PACKED_CASES",
    "PASSTHROUGH",
    "RECORDED",
    "Answer",
    "NodeResources",
    "ask",
    "build",
    "byte_clusters",
    "default_clusters",
    "load_recorded",
    "save_recorded",
    "version",
]

# Where a sidecar sends what may be called though the mesh does not know it.
PASSTHROUGH = "PassthroughCluster"

# Cases of which it is kept what a sidecar is sent, byte for byte.
PACKED_CASES = (
    *("allow_and_deny", "audits", "auto_mutual_tls", "custom", "headless", "localities", "mirrors", "outliers"),
    *("peers_permissive", "pods_of_headless", "pools", "protocols", "registry_only_bytes", "registry_only_wildcard"),
    *("service_entry_dns", "service_entry_none", "service_entry_static", "services", "split", "timeouts_and_retries"),
    *("tokens", "upstream_tls", "virtual_hosts", "wildcard_and_exact", "wildcards_in_wildcards"),
)

BOX = Path(__file__).parent / "box"
RECORDED = Path(__file__).parent / "recorded"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What istiod sends one node.

    Attributes:
        packed: Of a sidecar: all of it as it came, in Any's of JSON.
    """

    listeners: list[Json] = field(default_factory=list)
    routes: list[Json] = field(default_factory=list)
    clusters: list[Json] = field(default_factory=list)
    endpoints: list[Json] = field(default_factory=list)
    packed: list[Json] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """What istiod makes of one case.

    Attributes:
        error: Why a cluster refuses the folder; empty where it does not.
        clients, servers: In the order of the case, first for profile grpc, then for profile sidecar.
    """

    error: str = ""
    clients: tuple[tuple[NodeResources, NodeResources], ...] = ()
    servers: tuple[tuple[NodeResources, NodeResources], ...] = ()


def build() -> Path | None:
    """Build the program that runs istiod; None where there is no Go. Minutes at the first time, then seconds."""
    go = shutil.which("go")
    if go is None:
        return None
    # Each checkout has its own.
    place = hashlib.sha256(str(BOX).encode()).hexdigest()[:8]
    program = Path(tempfile.gettempdir()) / f"meshsdk-istio-box-{os.getuid()}-{place}"
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    subprocess.run([go, "build", "-o", program, "."], cwd=BOX, env=environment, check=True)
    return program


def version(program: Path) -> str:
    """The version of the istiod that is in the program."""
    output = subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout
    return output.strip().splitlines()[-1]


def ask(program: Path, cases: Iterable[tuple[Case, Path]]) -> Iterator[Answer]:
    """istiod's answer to each case whose folder lies at a path, in order."""
    asked = list(cases)
    with tempfile.TemporaryFile("w+") as questions:
        for case, folder in asked:
            questions.write(json.dumps({"folder": str(folder), "nodes": _nodes(case)}) + "\n")
        questions.seek(0)
        with subprocess.Popen([program, "record"], stdin=questions, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # istiod's packages write warnings to the same place before they can be told not to.
            lines = (line for line in process.stdout if line.startswith("{"))
            for (case, _), line in zip(asked, lines, strict=False):
                yield _answer(case, json.loads(line))
        if process.returncode:
            raise RuntimeError(f"the program that runs istiod ended with {process.returncode}")


def _nodes(case: Case) -> list[Json]:
    nodes = [_client_node(client) for client in case.clients] + [_server_node(server) for server in case.servers]
    return [
        {**node, "profile": profile, "packed": profile == "sidecar"}
        for node in nodes
        for profile in ("grpc", "sidecar")
    ]


def _client_node(client: Client) -> Json:
    region, zone, subzone = (*client.locality.split("/"), "", "")[:3]
    return {
        "name": "client",
        "namespace": client.namespace,
        "labels": dict(client.labels),
        "ip": client.address,
        "locality": {"region": region, "zone": zone, "subzone": subzone},
    }


def _server_node(server: Server) -> Json:
    return {"name": "server", "namespace": server.namespace, "labels": dict(server.labels), "ip": server.address}


def _answer(case: Case, data: Mapping[str, Any]) -> Answer:
    if data.get("error"):
        return Answer(error=data["error"])
    nodes = [NodeResources(**{name: found or [] for name, found in node.items()}) for node in data.get("nodes") or ()]
    pairs = tuple(zip(nodes[::2], nodes[1::2], strict=True))
    return Answer("", pairs[: len(case.clients)], pairs[len(case.clients) :])


def save_recorded(case: Case, answer: Answer, istiod_version: str) -> None:
    """Keep an answer as data, without what no comparison looks at. Each resource has a line of its own."""
    RECORDED.mkdir(exist_ok=True)
    clients = [
        [
            _trimmed(grpc, "listeners", "routes"),
            {**_shortened(sidecar), **_trimmed(sidecar, "routes", "clusters", "endpoints")},
        ]
        for grpc, sidecar in answer.clients
    ]
    servers = [
        [{}, _of_server(sidecar, server)] for server, (_, sidecar) in zip(case.servers, answer.servers, strict=True)
    ]
    data = {"istiod": istiod_version, "error": answer.error, "clients": clients, "servers": servers}
    (RECORDED / f"{case.name}.json").write_text(_written({name: value for name, value in data.items() if value}) + "\n")
    if case.name in PACKED_CASES:
        save_packed(case, answer)


def save_packed(case: Case, answer: Answer) -> None:
    """Keep what sidecars were sent as it came."""
    sent = [[sidecar.packed for _, sidecar in nodes] for nodes in (answer.clients, answer.servers)]
    folded = zlib.compress(json.dumps(sent, separators=(",", ":")).encode(), 9)
    (RECORDED / f"{case.name}.packed").write_text(base64.encodebytes(folded).decode())


def _load_packed(case: Case) -> list[list[list[Json]]]:
    path = RECORDED / f"{case.name}.packed"
    if not path.exists():
        return [[], []]
    found: list[list[list[Json]]] = json.loads(zlib.decompress(base64.decodebytes(path.read_bytes())))
    return found


def _written(value: Any) -> str:
    if isinstance(value, dict) and "@type" not in value:
        return "{" + ",\n".join(f'"{name}": {_written(one)}' for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",\n".join(map(_written, value)) + "]"
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def load_recorded(case: Case) -> Answer | None:
    """The answer that is kept, or None."""
    path = RECORDED / f"{case.name}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text())

    def pairs(name: str, packed: list[list[Json]]) -> tuple[tuple[NodeResources, NodeResources], ...]:
        found = zip_longest(data.get(name, ()), packed, fillvalue=[])
        return tuple((NodeResources(**grpc), NodeResources(**sidecar, packed=sent)) for (grpc, sidecar), sent in found)

    of_clients, of_servers = _load_packed(case)
    return Answer(data.get("error", ""), pairs("clients", of_clients), pairs("servers", of_servers))


# Nothing is looked at in them, and they stand in every resource. Where secrets come from is a matter of Istio's agent.
_NOISE = frozenset(
    (
        *("access_log", "alt_stat_name", "decorator", "filters", "internal_address_config", "request_id_extension"),
        *("sds_config", "tracing", "upgrade_configs"),
    )
)


def _trimmed(node: NodeResources, *kept: str) -> Json:
    found = {name: [one for one in getattr(node, name) if _is_of_clients(one)] for name in kept}
    return {name: [_without_noise(one) for one in value] for name, value in found.items() if value}


def byte_clusters(listener: Json) -> list[str]:
    """Clusters that an outbound listener of a sidecar leads to without looking at requests."""
    if listener["name"].startswith("virtual"):
        return []
    return [name for chain in listener.get("filter_chains", ()) for name in _of_tcp_proxy(chain)]


def default_clusters(listener: Json) -> list[str]:
    """Where a sidecar's `virtualOutbound` sends what no other listener is for."""
    if listener["name"] != "virtualOutbound":
        return []
    # Another chain of it is for its own port, which nothing is to be sent to.
    chains = [one for one in listener.get("filter_chains", ()) if not one.get("filter_chain_match")]
    return [name for chain in chains for name in _of_tcp_proxy(chain)]


def _of_tcp_proxy(chain: Json) -> list[str]:
    found = []
    for one in chain.get("filters", ()):
        config = one["typed_config"]
        if config["@type"].endswith(".TcpProxy"):
            weighted = config.get("weighted_clusters", {}).get("clusters", ())
            found += [config["cluster"]] if "cluster" in config else [each["name"] for each in weighted]
    return found


def _shortened(node: NodeResources) -> Json:
    """Of a sidecar's listeners, where they send bytes, and whether all that is not known is passed through."""
    kept = []
    for listener in node.listeners:
        clusters = byte_clusters(listener) or [one for one in default_clusters(listener) if one != PASSTHROUGH]
        if clusters:
            chains = [_tcp_chain(name) for name in clusters]
            kept.append({"@type": listener["@type"], "name": listener["name"], "filter_chains": chains})
    return {"listeners": kept} if kept else {}


def _tcp_chain(cluster: str) -> Json:
    tcp_proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return {"filters": [{"name": "tcp", "typed_config": {"@type": tcp_proxy, "cluster": cluster}}]}


def _is_of_clients(resource: Json) -> bool:
    """Whether some request of a client may come to it: of a sidecar's clusters, those for what comes in do not."""
    return not resource.get("name", "").startswith("inbound|")


def _of_server(node: NodeResources, server: Server) -> Json:
    """The chains of the server's port, in the listener that a sidecar has for what comes in."""
    kept = []
    for listener in node.listeners:
        if listener["name"] == "virtualInbound":
            chains = [one for one in listener["filter_chains"] if _port_of(one) == server.port]
            listener = {
                **listener,
                "filter_chains": [{**_without_noise(one), "filters": one["filters"]} for one in chains],
            }
            kept.append({name: listener[name] for name in ("@type", "name", "filter_chains")})
    return {"listeners": kept} if kept else {}


def _port_of(chain: Json) -> int:
    port: int = chain.get("filter_chain_match", {}).get("destination_port", 0)
    return port


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_noise(one) for name, one in value.items() if name not in _NOISE and not _is_istios(name, one)
        }
    if isinstance(value, list):
        return [_without_noise(one) for one in value]
    return value


def _is_istios(name: str, value: Any) -> bool:
    """Metadata that only Istio's telemetry reads."""
    return name == "metadata" and isinstance(value, dict) and value.get("filter_metadata", {}).keys() == {"istio"}
