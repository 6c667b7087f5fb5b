"""The cluster's manifests, and the services that they are about, in each test."""

from pathlib import Path

import pytest
from fastapi import FastAPI

MANIFESTS = Path(__file__).parent.parent / "mesh"


@pytest.fixture
def cluster(control_plane, mesh_service):
    """What is deployed: the manifests as they are, and both versions of reviews."""
    control_plane.apply(MANIFESTS)
    for version in ("v1", "v2"):
        app = FastAPI()
        app.get("/reviews/{product}")(lambda product, version=version: version)
        mesh_service("reviews", app, namespace="shop", port=9080, version=version, mtls="STRICT")


@pytest.fixture
def web(mesh_as):
    """The mesh of the workload that this project is."""
    return mesh_as("web", namespace="shop")
