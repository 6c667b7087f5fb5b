"""WorkloadGroup (istio.networking.v1.WorkloadGroup), read as Istio validates it.

It is a template: istiod makes a WorkloadEntry of it when a proxy registers itself, and marks that entry with an
annotation where the group has a probe. By itself a group serves nothing; those entries are read like others, and what
is marked serves when its status says that it is healthy.

Source: istio/istio pkg/config/validation/validation.go (ValidateWorkloadGroup, validateReadinessProbe);
pilot/pkg/serviceregistry/serviceentry/conversion.go (isHealthy).
"""

from __future__ import annotations

import re

from .checks import check_labels
from .fields import Fields
from .kubernetes import Meta

__all__ = ["is_healthy", "parse_workload_group"]

_CHECKED = "proxy.istio.io/health-checks-enabled"
# strconv.ParseBool
_TRUE = ("1", "t", "T", "TRUE", "true", "True")

_HEADER_NAME = re.compile(r"[-_A-Za-z0-9]+")
_METHODS = ("httpGet", "tcpSocket", "exec")
_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def parse_workload_group(spec: Fields, meta: Meta) -> None:
    """Check a group.

    Raises:
        ConfigError: Istio refuses it.
    """
    template, metadata, probe = spec.child("template"), spec.child("metadata"), spec.child("probe")
    if template is None:
        raise spec.error("template", "must be set")
    if metadata is not None:
        check_labels(metadata, "labels")
        metadata.ignore("annotations")
        metadata.finish_exactly()
    if probe is not None:
        _check_probe(probe)
    template.integers("ports")
    template.labels("labels")
    template.ignore("address", "network", "locality", "weight", "serviceAccount")
    template.finish_exactly()
    spec.finish_exactly()


def _check_probe(probe: Fields) -> None:
    for name in _NUMBERS:
        probe.integer(name, high=0x7FFFFFFF)
    methods = [name for name in _METHODS if name in probe]
    if len(methods) != 1:
        raise probe.error(methods[1] if methods else "httpGet", f"there must be one of {', '.join(_METHODS)}")
    [name] = methods
    method = probe.child(name)
    assert method is not None
    if name == "exec":
        if not method.texts("command"):
            raise method.error("command", "must be set")
    elif method.integer("port", low=1, high=65535) is None:
        raise method.error("port", "must be set")
    if name == "httpGet":
        method.choice("scheme", ("HTTP", "HTTPS"))
        for header in method.children("httpHeaders"):
            if not _HEADER_NAME.fullmatch(header.text("name")):
                raise header.error("name", "must consist of letters, digits, '-' and '_'")
            header.ignore("value")
            header.finish_exactly()
        method.ignore("path")
    method.ignore("host")
    method.finish_exactly()
    probe.finish_exactly()


def is_healthy(document: Fields, meta: Meta) -> bool:
    """Whether a WorkloadEntry serves: whose proxy checks its health, does when that has said so."""
    status = document.child("status")
    if meta.annotations.get(_CHECKED, "") not in _TRUE:
        return True
    conditions = status.children("conditions") if status is not None else ()
    told = [one.text("status") for one in conditions if one.text("type") == "Healthy"]
    return bool(told) and told[0] == "True"
