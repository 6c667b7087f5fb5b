"""The import rule of docs/architecture.md, enforced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "meshsdk"

# A module imports only from packages of a lower rank, or from its own.
RANKS = {
    "errors": 0,
    "one_line": 0,
    "forked": 0,
    "log_lines": 0,
    "telemetry": 1,
    "bootstrap": 1,
    "deadline": 1,
    "istio_pod": 1,
    "service_account_token": 1,
    "resources": 2,
    "xds": 3,
    "discovery": 4,
    "routing": 5,
    "balancing": 5,
    "security": 6,
    "exchange": 7,
    "identities": 7,
    "inbound": 7,
    "http": 8,
    "controlplane": 9,
    "health": 9,
    "control": 10,
    "decision": 10,
    "grpc": 10,
    "server": 10,
    "mesh": 11,
    "__init__": 12,
    "admin": 13,
    "cli": 13,
    "__main__": 13,
}
DECISION_SIDE = ("routing", "balancing", "exchange", "inbound")
FORBIDDEN_TO_DECISIONS = ("grpc", "httpx", "asyncio", "threading", "ssl", "socket")
MAY_SEE_PROTOBUF = ("resources", "xds", "controlplane", "grpc", "server", "identities")
FILES = sorted(ROOT.rglob("*.py"))


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules that a file imports, with the lines."""
    package = ["meshsdk", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_left(path: Path) -> None:
    own = package_of(path)
    for name, line in imports_of(path):
        parts = name.split(".")
        if parts[0] != "meshsdk" or len(parts) < 2 or parts[1] not in RANKS:
            continue
        other = parts[1]
        allowed = other in (own, "errors", "telemetry") or RANKS[other] <= RANKS[own]
        assert allowed, f"{path.relative_to(ROOT)}:{line} imports {name}, which stands to its right"


def test_telemetry_imports_nothing_but_errors() -> None:
    for path in FILES:
        if package_of(path) == "telemetry":
            for name, line in imports_of(path):
                parts = name.split(".")
                assert parts[0] != "meshsdk" or len(parts) < 2 or parts[1] in ("telemetry", "errors"), f"{path}:{line}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if package_of(path) in DECISION_SIDE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_decision_side_touches_no_io(path: Path) -> None:
    for name, line in imports_of(path):
        root = name.split(".")[0]
        assert root not in FORBIDDEN_TO_DECISIONS, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_protobuf_stops_at_the_border(path: Path) -> None:
    if package_of(path) in MAY_SEE_PROTOBUF:
        return
    for name, line in imports_of(path):
        assert "_pb2" not in name, f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert not name.startswith("google.protobuf"), f"{path.relative_to(ROOT)}:{line} imports {name}"
