"""What workloads are called, and that endpoints say it as istiod's do (metadata istio.workload)."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.workload_names import name_of_entry, name_of_pod, told_of_endpoint
from meshsdk.resources import ResourceType
from meshsdk.telemetry.workload import workload_of_endpoint

from ..conftest import service

PODS = [
    ({}, None, "pod-x"),
    ({"service.istio.io/workload-name": "mine"}, ("ReplicaSet", "web-5d"), "mine"),
    ({"pod-template-hash": "5d"}, ("ReplicaSet", "web-5d"), "web"),
    ({"rollouts-pod-template-hash": "6e"}, ("ReplicaSet", "web-6e"), "web"),
    ({}, ("ReplicaSet", "web-5d"), "web-5d"),
    ({"deploymentconfig": "dc"}, ("ReplicationController", "dc-1"), "dc"),
    ({}, ("StatefulSet", "db"), "db"),
    ({}, ("Job", "nightly-27811440"), "nightly"),
    ({}, ("Job", "once"), "once"),
]


@pytest.mark.parametrize(("labels", "owner", "name"), PODS)
def test_a_pod_is_of_the_workload_that_istiod_says(
    labels: dict[str, str], owner: tuple[str, str] | None, name: str
) -> None:
    assert name_of_pod("pod-x", labels, owner) == name


def test_a_workload_entry_has_its_groups_name_or_that_of_its_label() -> None:
    label = {"service.istio.io/workload-name": "label"}
    assert name_of_entry("vm-1", {}, {}) == "vm-1"
    assert name_of_entry("vm-1", label, {}) == "label"
    assert name_of_entry("vm-1", label, {"istio.io/autoRegistrationGroup": "group"}) == "group"


def test_what_an_endpoint_tells_is_what_istiod_recorded_of_it() -> None:
    """The words are those of tests/interop/istio/recorded."""
    assert told_of_endpoint("se-1", "default", {"version": "v2"}) == "se-1;default;se-1;v2;Kubernetes"
    assert told_of_endpoint("vm-1", "default", {"app": "vm", "version": "v1"}) == "vm-1;default;vm;v1;Kubernetes"
    assert told_of_endpoint("secure-1", "default", {"app": "secure"}) == "secure-1;default;secure;;Kubernetes"
    assert workload_of_endpoint({"istio": {"workload": told_of_endpoint("", "prod", {})}}).namespace == "prod"


POD = """---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d-abcde
  generateName: web-5d-
  labels: {app: web, version: v2, pod-template-hash: 5d}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d, uid: u, controller: true}]
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.7}
"""


def test_a_folders_endpoints_name_the_workload_of_their_pod(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(service("web") + POD)
    view = load(tmp_path).view(Client())
    name = (ResourceType.ENDPOINTS, "outbound|80||web.default.svc.cluster.local")
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(view.grpc[name])
    told = [
        endpoint.metadata.filter_metadata["istio"]["workload"]
        for locality in assignment.endpoints
        for endpoint in locality.lb_endpoints
    ]
    assert told == ["web;default;web;v2;Kubernetes"]
