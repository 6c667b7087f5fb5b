"""The real istiod, asked what it makes of folders; and its answers, kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .case import Case, Client, Server

__all__ = ["RECORDED", "Answer", "NodeResources", "ask", "build", "load_recorded", "save_recorded"]

BOX = Path(__file__).parent / "box"
RECORDED = Path(__file__).parent / "recorded"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What istiod sends one node."""

    listeners: list[Json] = field(default_factory=list)
    routes: list[Json] = field(default_factory=list)
    clusters: list[Json] = field(default_factory=list)
    endpoints: list[Json] = field(default_factory=list)


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
    program = Path(tempfile.gettempdir()) / f"meshsdk-istio-box-{os.getuid()}"
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
    return [{**node, "profile": profile} for node in nodes for profile in ("grpc", "sidecar")]


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
    """Keep an answer as data, without what no comparison looks at."""
    RECORDED.mkdir(exist_ok=True)
    clients = [[_trimmed(grpc), _trimmed(sidecar, _is_never)] for grpc, sidecar in answer.clients]
    servers = [[_of_server(grpc), _of_server(sidecar)] for grpc, sidecar in answer.servers]
    data = {"istiod": istiod_version, "error": answer.error, "clients": clients, "servers": servers}
    text = json.dumps({name: value for name, value in data.items() if value}, separators=(",", ":"), sort_keys=True)
    (RECORDED / f"{case.name}.json").write_text(text + "\n")


def load_recorded(case: Case) -> Answer | None:
    """The answer that is kept, or None."""
    path = RECORDED / f"{case.name}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text())

    def pairs(name: str) -> tuple[tuple[NodeResources, NodeResources], ...]:
        return tuple((NodeResources(**grpc), NodeResources(**sidecar)) for grpc, sidecar in data.get(name, ()))

    return Answer(data.get("error", ""), pairs("clients"), pairs("servers"))


# Nothing is looked at in them, and they stand in every resource.
_NOISE = frozenset(("alt_stat_name", "decorator", "tracing", "access_log", "stat_prefix"))


def _trimmed(node: NodeResources, keeps_listener: Any = lambda listener: True) -> Json:
    listeners = [one for one in node.listeners if keeps_listener(one)]
    found = {"listeners": listeners, "routes": node.routes, "clusters": node.clusters, "endpoints": node.endpoints}
    return {name: _without_noise(value) for name, value in found.items() if value}


def _is_never(_: Json) -> bool:
    """Which listeners of a sidecar are kept for a client: none, its routes are found by their names."""
    return False


def _of_server(node: NodeResources) -> Json:
    listeners = [one for one in node.listeners if "inbound" in one["name"].lower()]
    return {"listeners": _without_noise(listeners)} if listeners else {}


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_noise(one) for name, one in value.items() if name not in _NOISE}
    if isinstance(value, list):
        return [_without_noise(one) for one in value]
    return value
