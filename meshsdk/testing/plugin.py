"""pytest's fixtures. pytest imports this in every run where meshsdk is installed, so it imports nothing of weight."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from ..mesh import Mesh
    from .control_plane import ControlPlane
    from .services import MeshService

__all__ = ["control_plane", "mesh", "mesh_as", "mesh_service", "xds_variant"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where tests mock by respx, it mocks the mesh's clients too."""
    if "respx" in sys.modules:
        from .mocks import share_respx

        share_respx()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Where a test mocks by pytest-httpx, it mocks the mesh's clients too."""
    made = yield
    if fixturedef.argname == "httpx_mock" and "pytest_httpx" in sys.modules:
        from .mocks import share_pytest_httpx

        share_pytest_httpx(request.getfixturevalue("monkeypatch"))
    return made


@pytest.fixture
def xds_variant() -> Literal["sotw", "incremental"]:
    """How meshes of the test ask their control plane: `sotw` (the state of the world) or `incremental`.

    @pytest.mark.parametrize("xds_variant", ["sotw", "incremental"])
    def test_…
    """
    return "sotw"


@pytest.fixture
def control_plane(xds_variant: str) -> Iterator[ControlPlane]:
    """The test's own management server (`meshsdk.testing.ControlPlane`)."""
    from .control_plane import ControlPlane

    if xds_variant not in ("sotw", "incremental"):
        raise pytest.UsageError(f"xds_variant must be 'sotw' or 'incremental', is {xds_variant!r}")
    with ControlPlane(incremental=xds_variant == "incremental") as made:
        yield made


@pytest.fixture
def mesh(control_plane: ControlPlane) -> Mesh:
    """The test's own place on the mesh: the workload `test` of the namespace `default`."""
    return control_plane.mesh("test")


@pytest.fixture
def mesh_as(control_plane: ControlPlane) -> Callable[..., Mesh]:
    """Makes places of other workloads; arguments are those of `ControlPlane.mesh`.

    web = mesh_as("web", namespace="shop")
    """
    return control_plane.mesh


@pytest.fixture
def mesh_service(control_plane: ControlPlane) -> Callable[..., MeshService]:
    """Runs applications as services of the mesh; arguments are those of `ControlPlane.service`.

    mesh_service("reviews", app, port=9080)
    """
    return control_plane.service
