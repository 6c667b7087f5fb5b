"""A pod's place on Istio without an agent: the bootstrap that it would be given, made of what Kubernetes gives it.

What is read is what Istio's agent reads, under the same names and in the same places (istio pilot/cmd/pilot-agent,
pkg/bootstrap/config.go, pkg/istio-agent/grpcxds/grpc_bootstrap.go), so that the agent's part of a pod's manifest is
enough: the downward API's variables, the projected token, the roots and, where they are mounted, the pod's labels.
Nothing of Kubernetes' own API is asked.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import BootstrapError

__all__ = ["ROOTS_FILE", "SERVER_LISTENER_TEMPLATE", "TOKEN_FILE", "pod_bootstrap", "told_metadata"]

TOKEN_FILE = "/var/run/secrets/tokens/istio-token"
ROOTS_FILE = "/var/run/secrets/istio/root-cert.pem"
LABELS_FILE = "/etc/istio/pod/labels"

# The name that istiod has for the inbound listeners of gRPC servers (pkg/istio-agent/grpcxds/grpc_bootstrap.go).
SERVER_LISTENER_TEMPLATE = "xds.istio.io/grpc/lds/inbound/%s"

ISTIOD_VARIABLE = "ISTIOD_ADDR"
ISTIOD = "istiod.istio-system.svc"
_PORT = 15012
# The folder that stands for `/`, for processes that are in no pod.
ROOT_VARIABLE = "MESHSDK_POD_ROOT"

_NEEDED_VARIABLES = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "INSTANCE_IP": "status.podIP"}
_ACCOUNT_VARIABLE = "SERVICE_ACCOUNT"
_METADATA_PREFIX = "ISTIO_META_"

# In Istio's order (pkg/model/proxy.go, GetLocalityLabel); values have dots for slashes.
_LOCALITY_LABELS = ("topology.istio.io/locality", "istio-locality")
_TOPOLOGY_LABELS = {
    "region": "topology.kubernetes.io/region",
    "zone": "topology.kubernetes.io/zone",
    "sub_zone": "topology.istio.io/subzone",
}


def pod_bootstrap(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The bootstrap document of a pod that has what it takes; None where nothing speaks for such a pod.

    Args:
        environment: The process's. Needed are POD_NAME, POD_NAMESPACE and INSTANCE_IP; SERVICE_ACCOUNT, ISTIOD_ADDR
            (default `istiod.istio-system.svc:15012`) and each ISTIO_META_… are taken where they are set.

    Raises:
        BootstrapError: Some of it is there and some is not; the message names all that is missing.
    """
    root = Path(environment.get(ROOT_VARIABLE) or "/")
    token, roots = (root / path.lstrip("/") for path in (TOKEN_FILE, ROOTS_FILE))
    signs = (*_NEEDED_VARIABLES, ISTIOD_VARIABLE)
    if not any(environment.get(name) for name in signs) and not os.path.exists(token):
        return None
    missing = [
        f"the environment variable {name} (fieldRef {field})"
        for name, field in _NEEDED_VARIABLES.items()
        if not environment.get(name)
    ]
    if not os.path.isfile(token):
        missing.append(f"the file {token} (a projected serviceAccountToken with the audience istio-ca)")
    if not os.path.isfile(roots):
        missing.append(f"the file {roots} (the ConfigMap istio-ca-root-cert, which istiod makes in each namespace)")
    if missing:
        raise BootstrapError(
            "",
            f"this pod cannot join Istio by itself, it lacks {'; '.join(missing)}. See docs/istio.md; or set"
            " GRPC_XDS_BOOTSTRAP to a bootstrap file, or MESHSDK_CONFIG to a folder of YAML",
        )
    labels = _labels(root / LABELS_FILE.lstrip("/"))
    address = environment.get(ISTIOD_VARIABLE) or ISTIOD
    if ":" not in address:
        address += f":{_PORT}"  # gRPC's own default is 443.
    metadata = _metadata(environment, labels)
    istiod = {
        "server_uri": address,
        "channel_creds": [{"type": "tls", "config": {"ca_certificate_file": str(roots)}}],
        # For each new name istiod would send all that is known already.
        "server_features": ["xds_v3", "meshsdk.incremental"],
        "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": str(token)}}],
    }
    authority = {
        "address": address,
        "token_file": str(token),
        "ca_certificate_file": str(roots),
        "cluster_id": metadata["CLUSTER_ID"],
    }
    return {
        "xds_servers": [istiod],
        "node": {"id": _node_id(environment, metadata), "metadata": metadata, "locality": _locality(labels)},
        "certificate_providers": {"default": {"plugin_name": "meshsdk.istio_ca", "config": authority}},
        "server_listener_resource_name_template": SERVER_LISTENER_TEMPLATE,
    }


def _node_id(environment: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    address, name, namespace = (environment[one] for one in ("INSTANCE_IP", "POD_NAME", "POD_NAMESPACE"))
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise BootstrapError("", f"the environment variable INSTANCE_IP: {error}") from error
    domain = metadata.get("CLUSTER_DOMAIN") or "cluster.local"
    return f"sidecar~{address}~{name}.{namespace}~{namespace}.svc.{domain}"


def _metadata(environment: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"CLUSTER_ID": "Kubernetes"}
    for name, value in environment.items():
        if name.startswith(_METADATA_PREFIX) and value:
            metadata[name.removeprefix(_METADATA_PREFIX)] = value
    metadata |= {
        # Without it istiod takes the pod for a sidecar, and sends nothing that a client without one can use.
        "GENERATOR": "grpc",
        "NAME": environment["POD_NAME"],
        "NAMESPACE": environment["POD_NAMESPACE"],
    }
    if environment.get(_ACCOUNT_VARIABLE):
        metadata["SERVICE_ACCOUNT"] = environment[_ACCOUNT_VARIABLE]
    if labels:
        metadata["LABELS"] = dict(labels)
    return metadata


def told_metadata(environment: Mapping[str, str]) -> dict[str, Any]:
    """As much of a node's metadata as the environment tells, for processes that join by other means.

    Raises:
        BootstrapError: The pod's labels cannot be read.
    """
    labels = _labels(Path(environment.get(ROOT_VARIABLE) or "/") / LABELS_FILE.lstrip("/"))
    metadata = _metadata({"POD_NAME": "", "POD_NAMESPACE": "", **environment}, labels)
    return {name: value for name, value in metadata.items() if value and name != "GENERATOR"}


def _labels(path: Path) -> dict[str, str]:
    """The pod's labels, as the downward API writes them: a line each, the value in quotes."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = (line.split("=", 1) for line in lines if line)
        return {name: str(json.loads(value)) for name, value in pairs}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BootstrapError("", f"the pod's labels in {path} cannot be read: {error}") from error


def _locality(labels: Mapping[str, str]) -> dict[str, str]:
    """Where the pod is, where its labels say so; istiod finds it by the pod's node otherwise."""
    said = next((labels[name] for name in _LOCALITY_LABELS if labels.get(name)), "")
    if said:
        parts = (said if "/" in said else said.replace(".", "/")).split("/", 2)
        return dict(zip(_TOPOLOGY_LABELS, parts, strict=False))
    return {key: labels[name] for key, name in _TOPOLOGY_LABELS.items() if labels.get(name)}
