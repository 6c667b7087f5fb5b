"""What kubectl gives means what it meant in the cluster: who serves, where it is, and whose the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshsdk.controlplane.folder import FolderState, load
from meshsdk.controlplane.world import EndpointEntry
from tests.benchmarks.dump import write_dump

HOST = "a.shop.svc.cluster.local"


def an_object(kind: str, name: str, version: str = "v1", labels: dict[str, str] | None = None, **rest: Any) -> Any:
    metadata: Any = {"name": name, "labels": labels or {}, "managedFields": [{"manager": "kubectl"}]}
    if kind != "Node":
        metadata["namespace"] = "shop"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def pod(name: str, address: str, ready: bool = True, phase: str = "Running", **spec: Any) -> Any:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return an_object(
        "Pod",
        name,
        labels={"app": "a", "version": name},
        spec={
            "serviceAccountName": f"sa-{name}",
            "containers": [{"ports": [{"name": "http", "containerPort": 99}]}],
            **spec,
        },
        status={"podIP": address, "phase": phase, "conditions": conditions},
    )


def a_slice(*endpoints: Any, name: str = "a-1", **rest: Any) -> Any:
    return an_object(
        "EndpointSlice",
        name,
        "discovery.k8s.io/v1",
        {"kubernetes.io/service-name": "a"},
        **{"addressType": "IPv4", "endpoints": list(endpoints), "ports": [{"name": "http", "port": 8080}], **rest},
    )


def endpoint(address: str, pod: str = "", **rest: Any) -> Any:
    target = {"targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"}} if pod else {}
    return {"addresses": [address], **target, **rest}


SERVICE = an_object(
    "Service", "a", spec={"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
)
ENTRY = {
    "hosts": ["x.example"],
    "location": "MESH_INTERNAL",
    "resolution": "STATIC",
    "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
    "workloadSelector": {"labels": {"app": "a"}},
}
SERVICE_ENTRY = an_object("ServiceEntry", "x", "networking.istio.io/v1", spec=ENTRY)


def workload_entry(name: str, address: str, **spec: Any) -> Any:
    return an_object(
        "WorkloadEntry", name, "networking.istio.io/v1", spec={"address": address, "labels": {"app": "a"}, **spec}
    )


def state_of(folder: Path, *objects: Any) -> FolderState:
    (folder / "dump.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    return load(folder)


def entries(folder: Path, *objects: Any, host: str = HOST) -> list[EndpointEntry]:
    state = state_of(folder, *objects)
    assert not state.errors
    return state.world.services[host].endpoints.get(80, [])


def places(folder: Path, *objects: Any, host: str = HOST) -> list[tuple[str, int, bool]]:
    return [(one.address, one.port, one.is_ready) for one in entries(folder, *objects, host=host)]


# Who serves.


def test_slices_alone_say_who_serves_a_service(tmp_path: Path) -> None:
    endpoints = an_object(
        "Endpoints", "a", subsets=[{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"name": "http", "port": 8080}]}]
    )
    pods = [pod("one", "10.0.0.1"), pod("two", "10.0.0.2"), pod("done", "10.0.0.1", phase="Succeeded")]
    found = entries(tmp_path, SERVICE, *pods, endpoints, a_slice(endpoint("10.0.0.1", "one")))
    assert [(one.address, one.port, one.service_account) for one in found] == [("10.0.0.1", 8080, "sa-one")]
    assert found[0].labels["version"] == "one"


def test_a_slice_without_endpoints_says_that_nobody_serves(tmp_path: Path) -> None:
    assert places(tmp_path, SERVICE, pod("one", "10.0.0.1"), a_slice()) == []
    assert places(tmp_path, SERVICE, pod("one", "10.0.0.1"), a_slice(ports=None)) == []


def test_endpoints_count_where_there_is_no_slice_and_pods_do_not_then(tmp_path: Path) -> None:
    subsets = [
        {
            "addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "one"}}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"name": "http", "port": 8080}],
        }
    ]
    endpoints = an_object("Endpoints", "a", subsets=subsets)
    found = entries(tmp_path, SERVICE, pod("one", "10.0.0.1"), pod("three", "10.0.0.3"), endpoints)
    assert [(one.address, one.is_ready, one.service_account) for one in found] == [
        ("10.0.0.1", True, "sa-one"),
        ("10.0.0.2", False, ""),
    ]


def test_an_endpoint_in_two_slices_is_one(tmp_path: Path) -> None:
    slices = [a_slice(endpoint("10.0.0.1"), name=name) for name in ("a-1", "a-2")]
    assert places(tmp_path, SERVICE, *slices) == [("10.0.0.1", 8080, True)]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (None, [True]),
        ({}, [True]),
        ({"ready": None}, [True]),
        ({"ready": True, "terminating": True}, [True]),
        ({"ready": False, "serving": False, "terminating": False}, [False]),
        ({"ready": False, "serving": True, "terminating": True}, []),
        ({"ready": False}, []),
    ],
)
def test_conditions_of_a_slices_endpoint_count_as_istiod_counts_them(
    tmp_path: Path, conditions: Any, found: list[bool]
) -> None:
    one = endpoint("10.0.0.1", conditions=conditions)
    assert [ready for _, _, ready in places(tmp_path, SERVICE, a_slice(one))] == found


def test_a_pod_that_has_finished_never_serves(tmp_path: Path) -> None:
    over = [pod("failed", "10.0.0.1", phase="Failed"), pod("done", "10.0.0.2", phase="Succeeded")]
    assert places(tmp_path, SERVICE, *over, pod("one", "10.0.0.1")) == [("10.0.0.1", 8080, True)]
    assert places(tmp_path, SERVICE, *over, a_slice(endpoint("10.0.0.2", "done"), endpoint("10.0.0.3"))) == [
        ("10.0.0.3", 8080, True)
    ]


def test_a_pod_that_is_being_deleted_is_selected_by_nothing_and_is_still_a_server(tmp_path: Path) -> None:
    going = pod("one", "10.0.0.1")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert places(tmp_path, SERVICE, going) == []
    assert places(tmp_path, SERVICE_ENTRY, going, host="x.example") == []
    assert [one.address for one in state_of(tmp_path, SERVICE, going).world.workloads] == ["10.0.0.1"]


def test_a_service_selects_workload_entries_beside_its_slices(tmp_path: Path) -> None:
    found = places(
        tmp_path,
        SERVICE,
        a_slice(endpoint("10.0.0.1")),
        workload_entry("w", "10.0.0.7"),
        workload_entry("n", "a.example"),
    )
    assert found == [("10.0.0.1", 8080, True), ("10.0.0.7", 8080, True)]


def test_a_service_entry_selects_workload_entries_and_pods_that_are_ready(tmp_path: Path) -> None:
    pods = [pod("one", "10.0.0.1"), pod("two", "10.0.0.2", ready=False), pod("done", "10.0.0.3", phase="Failed")]
    # The pod's port has the name of the entry's.
    assert sorted(places(tmp_path, SERVICE_ENTRY, *pods, workload_entry("w", "10.0.0.7"), host="x.example")) == [
        ("10.0.0.1", 99, True),
        ("10.0.0.7", 80, True),
    ]


def test_a_number_is_the_port_of_a_services_pods_whatever_they_name(tmp_path: Path) -> None:
    assert places(tmp_path, SERVICE, pod("one", "10.0.0.1")) == [("10.0.0.1", 8080, True)]


def test_ipv6_slices_count_beside_ipv4_and_names_do_not(tmp_path: Path) -> None:
    found = places(
        tmp_path,
        SERVICE,
        a_slice(endpoint("10.0.0.1")),
        a_slice(endpoint("fd00::1"), name="a-2", addressType="IPv6"),
        a_slice(endpoint("db.example.com"), name="a-3", addressType="FQDN"),
    )
    assert found == [("10.0.0.1", 8080, True), ("fd00::1", 8080, True)]


def test_labels_of_the_objects_come_before_those_of_the_spec_and_a_service_entrys_are_its_own(tmp_path: Path) -> None:
    both = workload_entry("w", "10.0.0.7", labels={"app": "a", "version": "spec"})
    both["metadata"]["labels"] = {"version": "object"}
    [found] = entries(tmp_path, SERVICE, both)
    assert found.labels["version"] == "object"
    inline = {**ENTRY, "endpoints": [{"address": "10.0.0.8", "labels": {"version": "v1"}}]}
    del inline["workloadSelector"]
    entry = an_object("ServiceEntry", "x", "networking.istio.io/v1", {"version": "mine"}, spec=inline)
    [found] = entries(tmp_path, entry, host="x.example")
    assert found.labels == {"version": "v1"}


# Where it is.

NODE = an_object(
    "Node",
    "n1",
    labels={
        "topology.kubernetes.io/region": "eu",
        "topology.kubernetes.io/zone": "eu-1",
        "topology.istio.io/subzone": "rack",
    },
    spec={"podCIDR": "10.0.0.0/24"},
    status={"addresses": []},
)


def locality(found: list[EndpointEntry]) -> list[str]:
    return [one.locality for one in found]


def test_nodes_give_their_pods_and_endpoints_a_locality(tmp_path: Path) -> None:
    assert locality(entries(tmp_path, SERVICE, NODE, pod("one", "10.0.0.1", nodeName="n1"))) == ["eu/eu-1/rack"]
    [found] = entries(
        tmp_path, SERVICE, NODE, pod("one", "10.0.0.1", nodeName="n1"), a_slice(endpoint("10.0.0.1", "one", zone="x"))
    )
    assert found.locality == "eu/eu-1/rack"
    assert found.labels["topology.kubernetes.io/zone"] == "eu-1"
    assert found.labels["kubernetes.io/hostname"] == "n1"
    assert locality(entries(tmp_path, SERVICE, NODE, a_slice(endpoint("10.0.0.1", nodeName="n1")))) == ["eu/eu-1/rack"]


def test_older_labels_of_nodes_count_where_the_new_ones_are_not(tmp_path: Path) -> None:
    names = {"failure-domain.beta.kubernetes.io/region": "eu", "failure-domain.beta.kubernetes.io/zone": "eu-2"}
    older = an_object("Node", "n1", labels=names)
    assert locality(entries(tmp_path, SERVICE, older, pod("one", "10.0.0.1", nodeName="n1"))) == ["eu/eu-2"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"topology.istio.io/locality": "us.us-1.a", "istio-locality": "x"}, "us/us-1/a"),
        ({"istio-locality": "us.us-1"}, "us/us-1"),
        ({"istio-locality": "us/us-1.b"}, "us/us-1.b"),
    ],
)
def test_a_label_gives_a_locality_in_place_of_the_nodes(tmp_path: Path, labels: dict[str, str], found: str) -> None:
    one = pod("one", "10.0.0.1", nodeName="n1")
    one["metadata"]["labels"] |= labels
    assert locality(entries(tmp_path, SERVICE, NODE, one)) == [found]
    entry = workload_entry("w", "10.0.0.7")
    entry["metadata"]["labels"] = labels
    assert locality(entries(tmp_path, SERVICE, entry)) == [found]


def test_without_nodes_a_slices_zone_is_what_is_known(tmp_path: Path) -> None:
    assert locality(entries(tmp_path, SERVICE, a_slice(endpoint("10.0.0.1", zone="eu-west-1a")))) == [
        "eu-west/eu-west-1a"
    ]


# Whose the rest is.


def test_a_hundred_kinds_that_are_not_ours_are_one_note(tmp_path: Path) -> None:
    events = [an_object("Event", f"e{one}") for one in range(30)]
    others = [
        an_object("Secret", "s"),
        an_object("Deployment", "d", "apps/v1"),
        an_object("Lease", "l", "coordination.k8s.io/v1"),
    ]
    state = state_of(tmp_path, SERVICE, *events, *others, an_object("Gateway", "g", "networking.istio.io/v1"))
    [problem] = state.problems
    assert not problem.is_error
    assert "dump.yaml item 1 and 33 more" in problem.text
    assert "Deployment (1), Event (30), Gateway (1), Lease (1), Secret (1)" in problem.text


def test_endpoints_of_services_that_are_not_there_are_one_note(tmp_path: Path) -> None:
    loose = [
        an_object("Endpoints", f"x{one}", subsets=[{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}])
        for one in range(9)
    ]
    [problem] = state_of(tmp_path, *loose).problems
    assert "shop/x0, shop/x1, shop/x2, shop/x3, shop/x4 and 4 more: there is no such Service" in problem.text


EFFECTIVE = [
    (
        "EnvoyFilter",
        "networking.istio.io/v1alpha3",
        {"configPatches": [{"applyTo": "CLUSTER", "match": {"context": "ANY"}}]},
    ),
    ("EnvoyFilter", "networking.istio.io/v1alpha3", {}),
    ("WasmPlugin", "extensions.istio.io/v1alpha1", {"url": "oci://x"}),
]


@pytest.mark.parametrize(("kind", "version", "spec"), EFFECTIVE)
def test_what_would_change_requests_and_cannot_is_refused_by_name(
    tmp_path: Path, kind: str, version: str, spec: Any
) -> None:
    state = state_of(
        tmp_path, SERVICE, an_object(kind, "x", version, spec=spec), an_object(kind, "y", version, spec=spec)
    )
    assert len(state.errors) == 2
    assert all(f"{kind} is not carried out: " in text and "dump.yaml item" in text for text in state.errors)
    assert HOST in state.world.services
    assert not state.world.security.broken


def test_what_is_for_gateways_only_is_not_ours(tmp_path: Path) -> None:
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}
    state = state_of(
        tmp_path,
        an_object(
            "EnvoyFilter",
            "x",
            "networking.istio.io/v1alpha3",
            spec={"configPatches": [{"match": {"context": "GATEWAY"}}]},
        ),
        an_object("WasmPlugin", "y", "extensions.istio.io/v1alpha1", spec={"targetRefs": [gateway]}),
    )
    assert not state.errors
    assert "EnvoyFilter (1), WasmPlugin (1)" in state.problems[0].text


def test_what_a_sidecar_would_heed_has_a_note_of_its_own(tmp_path: Path) -> None:
    telemetry = an_object(
        "Telemetry", "x", "telemetry.istio.io/v1", spec={"tracing": [{"disableContextPropagation": True}]}
    )
    state = state_of(tmp_path, telemetry, an_object("Secret", "s"), an_object("Secret", "t"))
    assert not state.errors
    assert any(
        "Telemetry/x.spec.tracing[0].disableContextPropagation: has no effect: " in one.text for one in state.problems
    )


def test_a_namespace_as_yaml_and_as_json_is_the_same(tmp_path: Path) -> None:
    states = [load(write_dump(tmp_path / name, 6, 30, as_json=name == "json")) for name in ("yaml", "json")]
    assert [state.problems for state in states] == [(), ()]
    assert states[0].version == states[1].version
    assert states[0].grpc == states[1].grpc
    [entry, *_] = states[0].world.services["app-3.shop.svc.cluster.local"].endpoints[80]
    assert (entry.locality, entry.service_account) == ("eu-west-1/eu-west-1a", "app-3")
