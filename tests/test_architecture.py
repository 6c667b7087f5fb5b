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
    "branches": 0,
    "one_line": 0,
    "version": 0,
    "xdstp": 0,
    "forked": 0,
    "log_lines": 0,
    "regular_file": 0,
    "extras": 0,
    "mesh_status": 0,
    "sensitive": 0,
    "telemetry": 1,
    "node": 1,
    "bootstrap": 1,
    "deadline": 1,
    "request_id": 1,
    "istio_pod": 1,
    "service_account_token": 1,
    "resources": 2,
    "xds": 3,
    "discovery": 4,
    "routing": 5,
    "balancing": 5,
    "security": 6,
    "access_log": 6,
    "exchange": 7,
    "identities": 7,
    "inbound": 7,
    "http": 8,
    "httpx2": 9,
    "controlplane": 9,
    "health": 9,
    "control": 10,
    "analysis": 10,
    "decision": 10,
    "status": 9,
    "followed": 9,
    "rotation": 9,
    "nearby": 9,
    "last_good": 9,
    "load_reporter": 9,
    "grpc": 10,
    "server": 10,
    "configuration": 11,
    "described": 11,
    "readiness": 11,
    "explaining": 11,
    "watched": 11,
    "mesh": 11,
    "clients": 11,
    "admin": 11,
    "__init__": 12,
    "cli": 13,
    "testing": 13,
    "__main__": 13,
}
DECISION_SIDE = ("routing", "balancing", "exchange", "inbound")
FORBIDDEN_TO_DECISIONS = ("grpc", "httpx", "asyncio", "threading", "ssl", "socket")
MAY_SEE_PROTOBUF = ("resources", "xds", "controlplane", "grpc", "server", "identities", "admin", "testing")
FILES = sorted(ROOT.rglob("*.py"))


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def statements_of(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Of each import of a file: the absolute name of its module, what is taken from there, and the line."""
    package = ["meshsdk", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, [alias.name for alias in node.names], node.lineno


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules that a file imports, with the lines."""
    for module, names, line in statements_of(path):
        yield module, line
        yield from ((f"{module}.{name}", line) for name in names)


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


# Rooms within packages: what others may use of one stands in its face.
ROOMS = ("resources", "inbound", "grpc")
# Each file is a face of its own here, loaded when the first such filter comes.
FACELESS = ("meshsdk.resources.filters", "meshsdk.inbound.filters")
MODULES = {".".join(["meshsdk", *path.relative_to(ROOT).with_suffix("").parts]): path for path in FILES}
PACKAGES = {name.removesuffix(".__init__") for name in MODULES if name.endswith(".__init__")}

LONGEST_FILE, LONGEST_FUNCTION = 450, 60


def modules_imported(name: str, path: Path) -> set[str]:
    """The modules of meshsdk that a file imports, for types or in functions as well."""
    known = MODULES.keys() | PACKAGES
    found = {
        full if (full := f"{module}.{one}") in known else module
        for module, names, _ in statements_of(path)
        for one in names or [""]
    }
    return (found & known) - {name.removesuffix(".__init__")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_shows_its_face_only(room: str) -> None:
    for name, path in MODULES.items():
        own = name.rpartition(".")[0]
        for other in modules_imported(name, path):
            package = other.rpartition(".")[0]
            is_inner = package.startswith(f"meshsdk.{room}.") and package not in FACELESS
            is_own = own == package or own.startswith(f"{package}.")
            assert not is_inner or is_own or other in PACKAGES, f"{name} imports {other}, and not the face {package}"


def test_nothing_imports_in_a_circle_not_even_for_types() -> None:
    graph = {name.removesuffix(".__init__"): modules_imported(name, path) for name, path in MODULES.items()}
    done: set[str] = set()
    for start in graph:
        under_way: dict[str, None] = {}
        steps = [(start, iter(sorted(graph[start])))] if start not in done else []
        under_way[start] = None
        while steps:
            name, rest = steps[-1]
            other = next(rest, None)
            if other is None:
                steps.pop()
                under_way.pop(name)
                done.add(name)
            elif other in under_way:
                circle = [*under_way][[*under_way].index(other) :]
                raise AssertionError(" imports ".join([*circle, other]))
            elif other not in done:
                under_way[other] = None
                steps.append((other, iter(sorted(graph.get(other, ())))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_read_at_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE, "cut it where it changes its subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_protobuf_stops_at_the_border(path: Path) -> None:
    if package_of(path) in MAY_SEE_PROTOBUF:
        return
    for name, line in imports_of(path):
        assert "_pb2" not in name, f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert not name.startswith("google.protobuf"), f"{path.relative_to(ROOT)}:{line} imports {name}"
