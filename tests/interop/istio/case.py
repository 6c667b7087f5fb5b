"""A folder of YAML, and who is looked at in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CORPUS", "Case", "Client", "Request", "Server", "read_case", "read_corpus"]

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a client's application makes it.

    Attributes:
        port: 80 does not stand in the URL.
    """

    host: str
    port: int
    target: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def authority(self) -> str:
        """The Host header."""
        return self.host if self.port == 80 else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        headers = "".join(f" {name}: {value!r}" for name, value in self.headers)
        return f"{self.method} http://{self.authority}{self.target}{headers}"


@dataclass(frozen=True, slots=True)
class Client:
    """A workload that asks others.

    Attributes:
        locality: Region, zone and sub-zone, with slashes between; empty where it tells of none.
    """

    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    locality: str = ""
    address: str = "192.0.2.1"

    def __str__(self) -> str:
        return "/".join(filter(None, (self.namespace, str(dict(self.labels) or ""), self.locality)))


@dataclass(frozen=True, slots=True)
class Server:
    """A workload that is asked: a Pod or a WorkloadEntry of the folder, by its address."""

    address: str
    port: int
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Case:
    """One folder.

    Attributes:
        text: Its documents.
        requests: Asked beside those that are made of the documents.
    """

    name: str
    text: str
    clients: tuple[Client, ...] = (Client(),)
    servers: tuple[Server, ...] = ()
    requests: tuple[Request, ...] = ()

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What stands in the folder, as plain data."""
        return [one for one in yaml.load_all(self.text, Loader=_LOADER) if isinstance(one, dict)]

    def write(self, folder: Path) -> Path:
        """Write the folder below another, and return its path."""
        root = folder / self.name
        root.mkdir(parents=True)
        (root / "folder.yaml").write_text(self.text)
        return root


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_case(path: Path) -> Case:
    """A file of the corpus: a head that says who is looked at, and the folder's documents after it.

    `include` in the head names files of `parts/` that belong to the folder.
    """
    text = path.read_text()
    head_text, _, rest = text.partition("\n---\n")
    head = yaml.safe_load(head_text) or {}
    if "kind" in head:
        raise ValueError(f"{path}: the first document must be the head of the case")
    known = {"clients", "servers", "requests", "include"}
    if not head.keys() <= known:
        raise ValueError(f"{path}: the head has {sorted(head.keys() - known)}; known are {sorted(known)}")
    parts = [(CORPUS / "parts" / f"{name}.yaml").read_text() for name in head.get("include") or ()]
    return Case(
        path.stem,
        "---\n".join([*parts, rest]),
        tuple(Client(**one) for one in head.get("clients") or [{}]),
        tuple(Server(**one) for one in head.get("servers") or ()),
        tuple(_request(one) for one in head.get("requests") or ()),
    )


def _request(data: Mapping[str, Any]) -> Request:
    headers = tuple((str(name), str(value)) for name, value in (data.get("headers") or {}).items())
    return Request(data["host"], data.get("port", 80), data.get("target", "/"), data.get("method", "GET"), headers)


def read_corpus(only: Iterable[str] = ()) -> list[Case]:
    """The cases written by hand, by name; or some of them."""
    wanted = set(only)
    return [read_case(path) for path in sorted(CORPUS.glob("*.yaml")) if not wanted or path.stem in wanted]
