"""The kinds of findings: their names, how bad they are, and what to do about them.

An *error* is what is not carried out, or makes requests fail for certain. A *warning* is carried out, and is hardly
what somebody meant. An *info* is worth knowing, and no reason to change anything. Where Istio's analyzer has a message
for it (istio/istio pkg/config/analysis/msg/messages.yaml), its code stands beside ours.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

__all__ = ["RULES", "Rule", "Severity"]


class Severity(Enum):
    """How bad it is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Rule(Struct, frozen=True):
    """One kind of finding.

    Attributes:
        summary: What is wrong.
        cure: What to do next.
        istio: The codes that Istio has for it.
    """

    code: str
    severity: Severity
    summary: str
    cure: str
    istio: tuple[str, ...] = ()


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

# In the order in which they are told.
_TABLE = (
    # What a file says by itself.
    Rule("unreadable", _E, "a file cannot be read", "mend the file, or take it out of the folder"),
    Rule(
        "unknown-kind",
        _E,
        "an object is nearly one that is known, or may be a security policy",
        "write apiVersion and kind as they are known; while it may be a policy, servers let nobody in",
    ),
    Rule(
        "not-carried-out",
        _E,
        "an object would change requests, and is not carried out here",
        "say the same by another object, or keep it in another folder",
    ),
    Rule(
        "invalid",
        _E,
        "a field is not what it must be",
        "write the field as Istio's or Kubernetes' reference has it",
        ("IST0106",),
    ),
    Rule(
        "port-transport",
        _E,
        "a Service's port has a protocol that Kubernetes does not know, and is left out",
        "write `protocol: TCP`, or leave it out; `appProtocol` or the port's name says what is spoken",
    ),
    Rule(
        "host-twice",
        _E,
        "two objects define the same host, of which the first counts",
        "make them one object, or give them hosts of their own",
        ("IST0177",),
    ),
    Rule(
        "policy-twice",
        _E,
        "two security policies have one name: it is not known which holds, and servers let nobody in",
        "rename one, or take it out",
    ),
    # Rules about hosts.
    Rule(
        "unknown-host",
        _E,
        "a rule sends requests to a host that there is not, or that its clients do not see",
        "name a Service or ServiceEntry that is there and exported to that namespace, or add one",
        ("IST0101",),
    ),
    Rule(
        "unknown-port",
        _E,
        "a rule sends requests to a port that its host has not",
        "name a port of the Service: its `port`, not its `targetPort`",
        ("IST0101",),
    ),
    Rule(
        "unknown-subset",
        _E,
        "a rule sends requests to a subset that no DestinationRule of its host has",
        "add the subset to the DestinationRule, or name one that is there",
        ("IST0101",),
    ),
    Rule(
        "empty-subset",
        _E,
        "requests are sent to a subset whose labels no workload has",
        "give the workloads the subset's labels, or mend the labels",
        ("IST0173",),
    ),
    Rule(
        "unknown-delegate",
        _E,
        "a route is left to a VirtualService that is not there",
        "mend name and namespace of the delegate; it must have no hosts, and be exported there",
    ),
    Rule(
        "conflicting-hosts",
        _E,
        "several VirtualServices are for one host, of which one alone has each port's requests",
        "make them one VirtualService, or export them to different namespaces",
        ("IST0109",),
    ),
    # Mutual TLS.
    Rule(
        "strict-plaintext",
        _E,
        "clients speak plaintext to a port that takes mutual TLS alone, and get a bare reset",
        "set the label `security.istio.io/tlsMode: istio` in the WorkloadEntry's `spec.labels`, or a"
        " DestinationRule with `tls: {mode: ISTIO_MUTUAL}`",
    ),
    Rule(
        "mutual-plaintext",
        _E,
        "clients speak mutual TLS to a port that takes plaintext alone",
        "take `tls: {mode: ISTIO_MUTUAL}` out of the DestinationRule, or the mode DISABLE out of the"
        " PeerAuthentication",
    ),
    # Of several, one holds.
    Rule(
        "conflicting-sidecars",
        _E,
        "several Sidecars are for the same workloads, of which the oldest holds",
        "make them one, or give them selectors that do not meet",
        ("IST0110", "IST0111"),
    ),
    Rule(
        "conflicting-telemetries",
        _E,
        "several Telemetry objects are for the same workloads",
        "make them one, or give them selectors that do not meet",
        ("IST0159", "IST0160"),
    ),
    # Carried out, and hardly meant.
    Rule(
        "unknown-field",
        _W,
        "a field is not known, and has no effect",
        "write it as it is meant; the reference of the kind has its spelling",
        ("IST0106",),
    ),
    Rule(
        "no-effect",
        _W,
        "something has no effect here, or not all of it",
        "docs/features.md says what is carried out; take it out, or live without it",
        ("IST0002",),
    ),
    Rule(
        "policy-not-carried-out",
        _W,
        "servers cannot have their policies, and let nobody in",
        "mend what the policy refers to",
    ),
    Rule(
        "unreachable-rule",
        _W,
        "a rule can never match, since those before it take all of its requests",
        "put it before the wider rule, or take it out",
        ("IST0130", "IST0131"),
    ),
    Rule(
        "ambiguous-port",
        _W,
        "a rule names no port of a host with several: requests keep the port that they are sent to",
        "name the port in the destination",
        ("IST0112",),
    ),
    Rule(
        "unknown-rule-host",
        _W,
        "a DestinationRule is for a host that there is not",
        "name a Service or ServiceEntry that is there, or take the rule out",
        ("IST0174",),
    ),
    Rule(
        "no-endpoints",
        _W,
        "nobody serves a service, or one of its ports: requests are answered with 503",
        "compare its selector with the labels of the workloads, and its targetPort with their ports",
    ),
    Rule(
        "port-without-workload",
        _W,
        "a port is named that no workload has",
        "name a port of the workloads: of their containers, or of `ports` of the WorkloadEntry",
    ),
    Rule(
        "selects-nothing",
        _W,
        "a selector selects no workload",
        "compare its labels, and its namespace, with those of the workloads",
        ("IST0101", "IST0127"),
    ),
    Rule(
        "unknown-namespace",
        _W,
        "a policy names a namespace that there is not",
        "mend the name, or add the Namespace",
        ("IST0101",),
    ),
    Rule(
        "endpoints-without-service",
        _W,
        "endpoints are of a Service that there is not",
        "mend the label `kubernetes.io/service-name`, or the name of the Endpoints",
    ),
    Rule(
        "unknown-provider",
        _W,
        "a Telemetry names a provider that does not do it, or none",
        "define the provider in MeshConfig's `extensionProviders`, or name one in the Telemetry",
        ("IST0157",),
    ),
    Rule(
        "unknown-annotation",
        _W,
        "an annotation is nearly one that is known, and has no effect",
        "write it as it is meant",
        ("IST0108",),
    ),
    Rule(
        "twice-in-file",
        _W,
        "an object stands twice in one file",
        "take one out",
    ),
    # Worth knowing.
    Rule(
        "ineffective-match",
        _I,
        "one of several conditions of a rule changes nothing, since those before it take all of its requests",
        "take it out, or put the rule before the wider one",
        ("IST0131",),
    ),
    Rule(
        "unused-empty-subset",
        _I,
        "a subset selects no workload, and no rule sends requests there",
        "nothing, where the workloads are to come",
        ("IST0173",),
    ),
    Rule(
        "untold-protocol",
        _I,
        "nobody says what is spoken on a port of a Service: it is taken for HTTP",
        "name the port `http-…`, `grpc-…` or `tcp-…`, or set `appProtocol`",
        ("IST0118", "IST0150"),
    ),
    Rule(
        "deprecated-field",
        _I,
        "a field is carried out, and has a newer spelling",
        "write the newer one",
        ("IST0002",),
    ),
    Rule(
        "over-grpc",
        _I,
        "gRPC channels do not carry out all of it; httpx clients do",
        "nothing, unless gRPC clients need it",
    ),
    Rule(
        "alternatives",
        _I,
        "objects stand in several files: a cluster has one of each, and a Mesh over all of these files takes the first",
        "check those together that are applied together: `meshsdk check FILE FILE …`",
    ),
    Rule(
        "services-elsewhere",
        _I,
        "rules are for hosts that none of these files define, so hosts, ports and subsets are not looked up",
        "check them together with the Services: `meshsdk check RULES SERVICES`",
        ("IST0101", "IST0174"),
    ),
    Rule(
        "pods-elsewhere",
        _I,
        "services are of Deployments and the like alone: a cluster makes their pods",
        "nothing, where a cluster does; a Mesh over these files alone needs EndpointSlices, Pods or WorkloadEntries",
    ),
    Rule(
        "workloads-elsewhere",
        _I,
        "none of these files say who serves, so selectors, endpoints and subsets are not looked up",
        "nothing, where a cluster does; a Mesh over these files alone needs EndpointSlices, Pods or WorkloadEntries",
        ("IST0101", "IST0127", "IST0173"),
    ),
)

RULES = {rule.code: rule for rule in _TABLE}
