"""What a raw resource may hold is what resources are parsed from: each type can be written down, whoever came first."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import meshsdk.resources
from meshsdk.controlplane.raw import _MODULES
from meshsdk.resources.protos import _PLACES

FILTERS = Path(meshsdk.resources.__file__).parent / "filters"


def parsed_extensions() -> set[str]:
    """The modules of extensions that the parsers use."""
    places = {place if place.endswith("_pb2") else f"{place}.{name}" for name, place in _PLACES.items()}
    for path in FILTERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                places |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name.endswith("_pb2")}
    return {place for place in places if place.startswith("envoy.extensions.")}


def test_every_extension_that_is_parsed_can_be_written_down_raw() -> None:
    known = {f"{package}.{module}_pb2" for package, modules in _MODULES.items() for module in modules.split()}
    assert len(known) > 40
    assert parsed_extensions() - known == set()


def test_every_module_of_the_list_is_there() -> None:
    for package, modules in _MODULES.items():
        for module in modules.split():
            assert importlib.import_module(f"{package}.{module}_pb2").DESCRIPTOR.package == package
