"""Istio's published analyzer inputs: what istioctl finds there, what of that is found here, and why the rest is not.

`python -m tests.analysis.istio_corpus` asks Istio's analyzers again (`make record-analyzers`); that needs Go.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.controlplane.istio_source import istio_source

HERE = Path(__file__).parent / "istio"
INPUTS = HERE / "inputs"
BOX = Path(__file__).parent.parent / "interop" / "istio" / "box"
ANALYSIS = "pkg/config/analysis"

# Istio's codes, and which of ours tells it.
FOUND_AS: dict[str, tuple[str, ...]] = {
    "IST0002": ("deprecated-field", "no-effect"),
    "IST0101": (
        *("unknown-host", "unknown-port", "unknown-subset", "selects-nothing", "unknown-namespace"),
        *("services-elsewhere", "workloads-elsewhere"),
    ),
    "IST0106": ("invalid", "unknown-field"),
    "IST0108": ("unknown-annotation",),
    "IST0109": ("conflicting-hosts",),
    "IST0110": ("conflicting-sidecars",),
    "IST0111": ("conflicting-sidecars",),
    "IST0112": ("ambiguous-port",),
    "IST0118": ("untold-protocol",),
    "IST0127": ("selects-nothing", "workloads-elsewhere"),
    "IST0130": ("unreachable-rule",),
    "IST0131": ("unreachable-rule", "ineffective-match"),
    "IST0150": ("untold-protocol",),
    "IST0157": ("unknown-provider",),
    "IST0159": ("conflicting-telemetries",),
    "IST0160": ("conflicting-telemetries",),
    "IST0173": ("empty-subset", "unused-empty-subset", "workloads-elsewhere"),
    "IST0174": ("unknown-rule-host", "services-elsewhere"),
    "IST0177": ("host-twice",),
}

_GATEWAY = "is about gateways, and a Mesh is none"
_SIDECAR = "is about the sidecar and its injector, and there is none"
_ENVOY_FILTER = "no EnvoyFilter is carried out: not-carried-out says so of each, or it is for gateways"
_INSTALLATION = "is about how Istio is installed"
_AMBIENT = "is about ambient mode, in which a Mesh has no part"

# Istio's codes that are of no concern, and why.
NO_CONCERN: dict[str, str] = {
    "IST0001": "is a fault of the analyzer's own",
    "IST0102": _SIDECAR,
    "IST0103": _SIDECAR,
    "IST0107": _SIDECAR,
    "IST0116": "a server of a Mesh has a listener of its own port, whatever Services say of it",
    "IST0123": _SIDECAR,
    "IST0125": _SIDECAR,
    "IST0126": "is about networks of several clusters",
    "IST0128": "without caCertificates the system's roots vouch, and the server's name is checked",
    "IST0129": "without caCertificates the system's roots vouch, and the server's name is checked",
    "IST0132": _GATEWAY,
    "IST0133": "what Istio warns of when it validates: of EnvoyFilters and addresses (see IST0151, IST0134)",
    "IST0134": "a service is found by its name, and needs no address of its own",
    "IST0135": _SIDECAR,
    "IST0136": _SIDECAR,
    "IST0137": "a server of a Mesh has a listener of its own port, whatever Services say of it",
    "IST0138": _GATEWAY,
    "IST0139": _INSTALLATION,
    "IST0140": _GATEWAY,
    "IST0141": _INSTALLATION,
    "IST0142": _INSTALLATION,
    "IST0143": "is seen in a running pod alone",
    "IST0144": _SIDECAR,
    "IST0145": _GATEWAY,
    "IST0146": _SIDECAR,
    "IST0147": _SIDECAR,
    "IST0148": _SIDECAR,
    "IST0149": "claims of tokens are conditions of routes of gateways alone; here such a condition is refused",
    "IST0151": _ENVOY_FILTER,
    "IST0152": _ENVOY_FILTER,
    "IST0153": _ENVOY_FILTER,
    "IST0154": _ENVOY_FILTER,
    "IST0155": _ENVOY_FILTER,
    "IST0156": _INSTALLATION,
    "IST0158": _SIDECAR,
    "IST0161": _GATEWAY,
    "IST0162": _GATEWAY,
    "IST0163": _INSTALLATION,
    "IST0164": _INSTALLATION,
    "IST0165": _GATEWAY,
    "IST0166": _GATEWAY,
    "IST0167": _AMBIENT,
    "IST0168": _INSTALLATION,
    "IST0169": _INSTALLATION,
    "IST0170": "is about several clusters",
    "IST0171": "is what another controller says of its own work, for waypoints and gateways",
    "IST0172": _INSTALLATION,
    "IST0175": _INSTALLATION,
    "IST0176": _INSTALLATION,
}

# Objects of which nothing is made: what Istio finds there is told by their number alone.
NOT_OURS = ("Gateway", "EnvoyFilter", "WasmPlugin")

# What else is not found, by file and object, and why.
NOT_FOUND = {
    ("incorrect-port-name-external-name-service-type.yaml", "Service nginx-ns3/nginx-svc3", "IST0150"): (
        "bytes to another host's name are passed on"
    ),
    ("k8sgateway-selector.yaml", "Telemetry default/telemetry-effective", "IST0106"): (
        "is for gateways, by targetRefs, and not read further"
    ),
    ("k8sgateway-selector.yaml", "Telemetry default/telemetry-effective", "IST0159"): (
        "is for gateways, by targetRefs, and not read further"
    ),
    ("k8sgateway-selector.yaml", "Telemetry default/telemetry-ineffective", "IST0159"): (
        "the other one is for gateways, by targetRefs"
    ),
    ("condition-analyzer.yaml", "AuthorizationPolicy default/negative-condition-authz", "IST0127"): "has no spec",
    ("condition-analyzer.yaml", "AuthorizationPolicy default/negative-condition-authz-partially-invalid", "IST0127"): (
        "has no spec"
    ),
}

# What is found here, and is no finding of Istio's: of any object, or of some.
ONLY_OURS = {
    "no-endpoints": "Istio does not ask whether anybody serves",
    "port-transport": "Kubernetes refuses it, Istio's analyzer does not look",
    "pods-elsewhere": "a Mesh over files has no cluster that makes pods",
    "over-grpc": "is about grpc-core",
    "workloads-elsewhere": "stands once for what Istio says of each object",
    "not-carried-out": "is about what a Mesh has not",
}
ONLY_OURS_OF = {
    (
        "serviceentry-conflicting-exportto.yaml",
        "host-twice",
    ): "a host of a folder has one definition, for all of its clients",
    (
        "serviceentry-no-conflict-protocol.yaml",
        "host-twice",
    ): "a host of a folder has one definition, whatever is spoken",
    ("serviceentry-missing-addresses-protocol.yaml", "host-twice"): "a host of a folder has one definition",
    ("virtualservice_destinationhosts.yaml", "unknown-port"): (
        "a destination without a port keeps the port that is asked for, in istiod, too: 80 of a host that has 42"
    ),
    ("virtualservice_overlappingmatches.yaml", "ineffective-match"): (
        "a prefix of / takes an exact /, too: Istio compares prefixes with prefixes"
    ),
    ("virtualservice_jwtclaimroute.yaml", "invalid"): "claims of tokens are conditions of gateways' routes alone",
    ("condition-analyzer.yaml", "invalid"): "objects without spec, of which Istio's test looks at the status alone",
    **{
        (
            f"destinationrule-simple-{where}-credentialname{selector}.yaml",
            "no-effect",
        ): "Secrets of Kubernetes are not read"
        for where in ("destination", "port")
        for selector in ("", "-selector")
    },
}

# Those that are kept here: about what a Mesh carries out.
KEPT = (
    *("authorizationpolicies", "condition-analyzer", "correct-port-name-external-name-service-type", "deprecation"),
    *("destinationrule-empty-topology-labels", "destinationrule-simple-port-credentialname"),
    *("destinationrule-subsets-not-select-pods", "destinationrule-subsets-with-topology-labels"),
    *("destinationrule-with-fake-host", "envoy-filter-filterchain", "gateway-different-port"),
    *("incorrect-port-name-external-name-service-type", "misannotated", "service-no-port-name"),
    *("service-no-port-name-system-namespace", "service-port-name", "serviceentry-address-required-lowercase"),
    *("serviceentry-conflicting-exportto", "serviceentry-conflicting-protocol", "serviceentry-no-conflict-protocol"),
    *("sidecar-default-selector", "sidecar-selector", "telemetry-default-selector", "telemetry-disable-provider"),
    *("telemetry-invalid-provider", "telemetry-selector", "virtualservice_conflictingmeshgatewayhosts"),
    *("virtualservice_conflictingmeshgatewayhosts_with_exportto", "virtualservice_destinationhosts"),
    *("virtualservice_destinationrules", "virtualservice_dupmatches", "virtualservice_gateways"),
    *("virtualservice_jwtclaimroute", "virtualservice_overlappingmatches"),
    "virtualservice_route_rule_no_effects_ingress",
)


def found_by_istio() -> dict[str, Any]:
    """What `found.json` has: `messages`, and by file the objects of each code."""
    found: dict[str, Any] = json.loads((HERE / "found.json").read_text())
    return found


def published_inputs() -> dict[str, Path]:
    """All inputs where Istio's sources are, else those that are kept here; by name."""
    source = istio_source()
    folder = source / ANALYSIS / "analyzers" / "testdata" if source is not None else INPUTS
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def full_name(origin: str) -> str:
    """An object as Istio names it, with its namespace: `VirtualService default/reviews`."""
    kind, _, name = origin.partition(" ")
    return origin if "/" in name else f"{kind} default/{name}"


def for_gateways(path: Path) -> set[str]:
    """The VirtualServices of a file that are for gateways alone."""
    found = set()
    for data in yaml.safe_load_all(path.read_text()):
        spec = (data or {}).get("spec") or {}
        gateways = spec.get("gateways") if isinstance(spec, dict) else None
        if data and data.get("kind") == "VirtualService" and gateways and "mesh" not in gateways:
            metadata = data["metadata"]
            found.add(f"VirtualService {metadata.get('namespace', 'default')}/{metadata['name']}")
    return found


def record() -> None:
    """Ask Istio's analyzers, and keep what they say with the inputs."""
    source = istio_source()
    assert source is not None, "Istio's sources are not in Go's module cache; `go mod download` in the box brings them"
    messages = re.findall(r"code: (IST\d+)", (source / ANALYSIS / "msg/messages.yaml").read_text())
    paths = [str(path) for path in published_inputs().values()]
    with tempfile.TemporaryDirectory() as folder:
        tool, output = Path(folder) / "analyze", Path(folder) / "found.json"
        subprocess.run(["go", "build", "-o", str(tool), "./analyze"], cwd=BOX, check=True)
        subprocess.run([str(tool), str(output), *paths], check=True, capture_output=True)
        said = json.loads(output.read_text())
    files: dict[str, dict[str, list[str]]] = {}
    for name, findings in sorted(said.items()):
        by_code: dict[str, set[str]] = {}
        for one in findings:
            by_code.setdefault(one["code"], set()).add(full_name(one["origin"]))
        files[name] = {code: sorted(objects) for code, objects in sorted(by_code.items())}
    (HERE / "found.json").write_text(json.dumps({"messages": messages, "files": files}, indent=1) + "\n")
    shutil.rmtree(INPUTS, ignore_errors=True)
    INPUTS.mkdir()
    for name in KEPT:
        shutil.copyfile(source / ANALYSIS / "analyzers" / "testdata" / f"{name}.yaml", INPUTS / f"{name}.yaml")


if __name__ == "__main__":
    record()
