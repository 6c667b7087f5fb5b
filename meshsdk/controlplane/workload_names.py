"""What workloads are called, and what endpoints tell of them to whoever measures.

Sources: istio/istio pkg/kube/util.go (GetWorkloadMetaFromPod), pkg/kube/labels/labels.go
(WorkloadNameFromWorkloadEntry, CanonicalService), pilot/pkg/networking/util/util.go (AppendLbEndpointMetadata).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["CLUSTER_ID", "name_of_entry", "name_of_pod", "told_of_endpoint"]

# istiod's own, where nobody gives it another; a process's is CLUSTER_ID of its node metadata, by default the same.
CLUSTER_ID = "Kubernetes"

_WORKLOAD_NAME = "service.istio.io/workload-name"
_AUTO_REGISTRATION = "istio.io/autoRegistrationGroup"
_CANONICAL_NAMES = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CANONICAL_REVISIONS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")

# Jobs of a CronJob end with the time that they were made for.
_OF_CRON_JOB = re.compile(r"(.+)-\d{8,10}")


def name_of_pod(pod: str, labels: Mapping[str, str], owner: tuple[str, str] | None) -> str:
    """The workload of a pod.

    Args:
        pod: Its name.
        labels: Its own.
        owner: Kind and name of what controls it, and has made its name; None for a pod of its own.
    """
    if _WORKLOAD_NAME in labels:
        return labels[_WORKLOAD_NAME]
    if owner is None:
        return pod
    kind, name = owner
    if kind == "ReplicaSet":
        for label in ("pod-template-hash", "rollouts-pod-template-hash"):
            if labels.get(label) and name.endswith(labels[label]):
                return name.removesuffix(f"-{labels[label]}")
    if kind == "ReplicationController" and labels.get("deploymentconfig"):
        return labels["deploymentconfig"]
    of_cron_job = _OF_CRON_JOB.fullmatch(name) if kind == "Job" else None
    return (of_cron_job[1] if of_cron_job is not None else name) or pod


def name_of_entry(name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """The workload of a WorkloadEntry, by what is in its metadata."""
    return annotations.get(_AUTO_REGISTRATION) or labels.get(_WORKLOAD_NAME) or name


def told_of_endpoint(workload: str, namespace: str, labels: Mapping[str, str]) -> str:
    """`workload;namespace;canonical name;canonical revision;cluster`; a revision that is `latest` is not said."""
    canonical = next((labels[name] for name in _CANONICAL_NAMES if name in labels), workload)
    revision = next((labels[name] for name in _CANONICAL_REVISIONS if name in labels), "")
    return ";".join((workload, namespace, canonical, "" if revision == "latest" else revision, CLUSTER_ID))
