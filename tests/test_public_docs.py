"""What a public name says of itself: each argument, and only errors that users can name."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import meshsdk

MODULES = (
    "meshsdk",
    "meshsdk.deadline",
    "meshsdk.errors",
    "meshsdk.httpx2",
    "meshsdk.identities",
    "meshsdk.request_id",
    "meshsdk.server",
    "meshsdk.testing",
    "meshsdk_fastapi",
    "meshsdk_flask",
    "meshsdk_requests",
)


def _public(module: str) -> Iterator[tuple[str, Any]]:
    """Functions and methods of a module's names, each as a user calls it."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", ()):
        one = getattr(found, name)
        if inspect.isfunction(one):
            yield f"{module}.{name}", one
        elif inspect.isclass(one):
            for own, member in vars(one).items():
                function = getattr(member, "__func__", member)
                if not own.startswith("_") and inspect.isfunction(function):
                    yield f"{module}.{name}.{own}", function


FUNCTIONS = dict(one for module in MODULES for one in _public(module))


def sections(docstring: str) -> dict[str, str]:
    parts = re.split(r"^(Args|Returns|Raises):\n", docstring, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_is_told_and_each_error_is_one_that_users_can_name(name: str) -> None:
    docstring = inspect.getdoc(FUNCTIONS[name]) or ""
    assert docstring, "it says nothing"
    if docstring.startswith("See "):
        return  # It is somebody else's: of an interface that is documented there.
    told = sections(docstring)
    arguments = [one for one in inspect.signature(FUNCTIONS[name]).parameters if one not in ("self", "cls")]
    assert [one for one in arguments if not re.search(rf"\b{one}\b", told.get("Args", ""))] == []
    raised = re.findall(r"^ {4}([\w., ]+):", told.get("Raises", ""), re.M)
    names = [one.strip() for line in raised for one in line.split(",")]
    assert [one for one in names if "." not in one and not hasattr(builtins, one) and not hasattr(meshsdk, one)] == []


def test_what_is_inside_has_no_public_name() -> None:
    assert dir(meshsdk) == sorted(meshsdk.__all__)
    inside = {"runtime", "carry_out", "after_fork", "drop_removed", "look_at_certificates", "leaves_out"}
    for one in (meshsdk.Mesh, meshsdk.MeshTransport, meshsdk.AsyncMeshTransport):
        assert not inside & set(dir(one))
