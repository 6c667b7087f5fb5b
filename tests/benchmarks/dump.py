"""A namespace as `kubectl get services,pods,endpointslices,endpoints -o yaml` gives it, of any size."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

__all__ = ["dump_of", "write_dump"]

Object = dict[str, Any]

_STAMP = "2026-05-04T03:02:01Z"
_ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")


def write_dump(folder: Path, services: int = 200, pods: int = 1000, *, as_json: bool = False) -> Path:
    """One file for each kind, a List, as kubectl writes it."""
    folder.mkdir(exist_ok=True)
    for kind, objects in dump_of(services, pods).items():
        whole = {"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}}
        if as_json:
            (folder / f"{kind}.json").write_text(json.dumps(whole, indent=4))
        else:
            dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
            (folder / f"{kind}.yaml").write_text(yaml.dump(whole, Dumper=dumper, sort_keys=True))
    return folder


def dump_of(services: int, pods: int) -> dict[str, list[Object]]:
    """Services with their pods, EndpointSlices and Endpoints; and the nodes."""
    each = pods // services
    return {
        "nodes": [_node(zone) for zone in _ZONES],
        "services": [_service(index) for index in range(services)],
        "pods": [_pod(index % services, index) for index in range(services * each)],
        "endpointslices": [_slice(index, range(index, services * each, services)) for index in range(services)],
        "endpoints": [_endpoints(index, range(index, services * each, services)) for index in range(services)],
    }


def _object(version: str, kind: str, name: str, labels: dict[str, str], manager: str, **rest: Any) -> Object:
    fields = {
        "f:metadata": {"f:labels": {".": {}, **{f"f:{label}": {} for label in labels}}, "f:ownerReferences": {".": {}}},
        "f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}}},
    }
    managed = {"apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": manager}
    metadata = {
        "creationTimestamp": _STAMP,
        "labels": labels,
        "managedFields": [{**managed, "operation": "Update", "time": _STAMP}],
        "name": name,
        "namespace": "shop",
        "resourceVersion": str(100_000 + len(name)),
        "uid": f"6f1e5a0c-0000-4000-8000-{zlib.crc32(name.encode()):012d}",
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _node(zone: str) -> Object:
    labels = {"topology.kubernetes.io/region": zone[:-1], "topology.kubernetes.io/zone": zone}
    node = _object("v1", "Node", f"node-{zone}", labels, "kubelet", spec={"podCIDR": "10.0.0.0/24"}, status={})
    del node["metadata"]["namespace"]
    return node


def _service(index: int) -> Object:
    spec = {
        "clusterIP": f"10.96.{index // 250}.{index % 250 + 1}",
        "clusterIPs": [f"10.96.{index // 250}.{index % 250 + 1}"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        "selector": {"app": f"app-{index}"},
        "sessionAffinity": "None",
        "type": "ClusterIP",
    }
    name = f"app-{index}"
    return _object("v1", "Service", name, {"app": name}, "kubectl", spec=spec, status={"loadBalancer": {}})


def _address(index: int) -> str:
    return f"10.1.{index // 250}.{index % 250 + 1}"


def _pod(service: int, index: int) -> Object:
    app = f"app-{service}"
    container = {
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
        "image": f"registry.example.com/shop/{app}:v1",
        "imagePullPolicy": "IfNotPresent",
        "name": app,
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    conditions = [
        {"lastProbeTime": None, "lastTransitionTime": _STAMP, "status": "True", "type": kind}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    spec = {
        "containers": [container],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "nodeName": f"node-{_ZONES[index % 3]}",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "serviceAccountName": app,
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
    }
    status = {
        "conditions": conditions,
        "hostIP": f"192.168.0.{index % 3 + 1}",
        "phase": "Running",
        "podIP": _address(index),
        "podIPs": [{"ip": _address(index)}],
        "qosClass": "Burstable",
        "startTime": _STAMP,
    }
    labels = {"app": app, "pod-template-hash": "7d4b9c6f58", "version": "v1"}
    return _object("v1", "Pod", _pod_name(service, index), labels, "kubelet", spec=spec, status=status)


def _pod_name(service: int, index: int) -> str:
    return f"app-{service}-7d4b9c6f58-{index:05d}"


def _slice(service: int, pods: Iterable[int]) -> Object:
    name = f"app-{service}"
    endpoints = [
        {
            "addresses": [_address(index)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{_ZONES[index % 3]}",
            "targetRef": _reference(service, index),
            "zone": _ZONES[index % 3],
        }
        for index in pods
    ]
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller"}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    rest = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
    version = "discovery.k8s.io/v1"
    return _object(version, "EndpointSlice", f"{name}-x7k2p", labels, "kube-controller-manager", **rest)


def _reference(service: int, index: int) -> Object:
    return {"kind": "Pod", "name": _pod_name(service, index), "namespace": "shop", "uid": f"{index:036d}"}


def _endpoints(service: int, pods: Iterable[int]) -> Object:
    name = f"app-{service}"
    addresses = [
        {"ip": _address(index), "nodeName": f"node-{_ZONES[index % 3]}", "targetRef": _reference(service, index)}
        for index in pods
    ]
    subsets = [{"addresses": addresses, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]
    return _object("v1", "Endpoints", name, {"app": name}, "kube-controller-manager", subsets=subsets)
