"""Where clients and servers do not agree on mutual TLS.

Theory of operation. A server's port takes what its PeerAuthentication says. A client speaks what its DestinationRule
says; where that says nothing, mutual TLS to endpoints with the label `security.istio.io/tlsMode: istio`, and plaintext
to others (auto mTLS). Pods get the label of Istio's injector, and one without it has no proxy that would refuse
anything. WorkloadEntries get it of whoever writes them: one that is forgotten is a reset without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..controlplane.client import Client
from ..controlplane.inbound import peer_mode
from ..controlplane.state import FolderState
from ..controlplane.traffic_policy import NO_POLICY, DestinationRule, TlsMode
from ..controlplane.world import TLS_LABEL, EndpointEntry, Service, Workload
from .findings import Finding, finding
from .objects import NETWORKING, Objects, Thing, text

__all__ = ["find_disagreements"]


def find_disagreements(objects: Objects, state: FolderState) -> Iterator[Finding]:
    """Ports of WorkloadEntries to which clients of their namespace speak what they do not take."""
    entries = {(one.namespace, text(one.spec, "address")): one for one in objects.of_kind(NETWORKING, "WorkloadEntry")}
    if not entries or not state.world.security.peers:
        return
    told: set[tuple[Thing, str]] = set()
    for service in state.world.services.values():
        rule = state.view(Client(service.namespace)).scope.destination_rules.of(service.host)
        for port, endpoints in service.endpoints.items():
            for entry, thing in _of_entries(service, endpoints, entries):
                found = _disagreement(objects, state, service, port, entry, thing, rule)
                if found is not None and (thing, found.code) not in told:
                    told.add((thing, found.code))
                    yield found


def _of_entries(
    service: Service, endpoints: Sequence[EndpointEntry], entries: Mapping[tuple[str, str], Thing]
) -> Iterator[tuple[EndpointEntry, Thing]]:
    for endpoint in endpoints:
        thing = entries.get((service.namespace, endpoint.address))
        if thing is not None:
            yield endpoint, thing


def _disagreement(
    objects: Objects,
    state: FolderState,
    service: Service,
    port: int,
    entry: EndpointEntry,
    thing: Thing,
    rule: DestinationRule | None,
) -> Finding | None:
    security = state.world.security
    workload = Workload(entry.address, service.namespace, entry.labels)
    mode = peer_mode(security.mesh, security.peers, workload, entry.port)
    policy = rule.policy if rule is not None and rule.policy is not None else NO_POLICY
    tls = policy.for_port(port).tls
    is_marked = entry.labels.get(TLS_LABEL) == "istio" and security.mesh.enable_auto_mtls
    called = (
        f"port {entry.port} takes mutual TLS alone (PeerAuthentication STRICT), and clients of {service.host}:{port}"
    )
    if mode == "STRICT" and tls is None and not is_marked:
        why = (
            "the MeshConfig has enableAutoMtls: false" if TLS_LABEL in entry.labels else f"it lacks {TLS_LABEL}: istio"
        )
        place = objects.place(thing.document, ".spec.labels")
        return finding("strict-plaintext", f"{called} speak plaintext, since {why}", place)
    if mode == "STRICT" and tls is not None and tls.mode is not TlsMode.ISTIO_MUTUAL:
        text_of = f"{called} speak what the DestinationRule says, tls: {{mode: {tls.mode.value}}}"
        return finding("strict-plaintext", text_of, objects.place(thing.document))
    if mode == "DISABLE" and tls is not None and tls.mode is TlsMode.ISTIO_MUTUAL:
        text_of = f"port {entry.port} takes plaintext alone (PeerAuthentication DISABLE), and a DestinationRule has"
        return finding(
            "mutual-plaintext",
            f"{text_of} clients of {service.host}:{port} speak mutual TLS",
            objects.place(thing.document),
        )
    return None
