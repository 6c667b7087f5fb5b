"""A client and a server of profile sidecar, by what istiod has sent sidecars byte for byte (`make record-istiod`).

The judge of a client is istiod's profile gRPC where that has routes, and an Envoy that goes by the same resources; of a
server, the one chain of its port with nothing but who gets in. The whole corpus, and folders that chance makes, are
compared by `make interop`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from meshsdk.discovery import ListenerView
from meshsdk.resources import OutlierDetection, ResourceType
from meshsdk.resources.tls import is_mesh_mutual

from .case import read_corpus
from .client_view import OwnView, Sidecar, packed_of
from .compare import compare
from .istiod import PACKED_CASES, load_recorded

CASES = {case.name: case for case in read_corpus(PACKED_CASES)}


def sidecar(name: str, *, has_identity: bool = True) -> Sidecar:
    """The first client of a case."""
    answer = load_recorded(CASES[name])
    assert answer is not None
    return Sidecar(packed_of(answer.clients[0][1]), has_identity=has_identity)


@pytest.mark.parametrize("name", PACKED_CASES)
def test_requests_and_servers_are_decided_on_as_by_istiods_other_profile(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    answer = load_recorded(case)
    assert answer is not None
    found = compare(case, tmp_path, answer, limit=20, profile="client")
    assert found.differences == []
    assert found.decisions or found.verdicts


@pytest.mark.parametrize("name", PACKED_CASES)
def test_nothing_that_istiod_sends_is_refused_and_notes_are_of_what_is_left(name: str) -> None:
    answer = load_recorded(CASES[name])
    assert answer is not None
    notes: set[str] = set()
    for client, (_, sent) in zip(CASES[name].clients, answer.clients, strict=True):
        own = OwnView.of(sent, client)
        for kind in (ResourceType.LISTENER, ResourceType.CLUSTER):
            names = own.sidecar.everything(kind)
            assert [one for one in names if own.sidecar.problem(kind, one)] == []
            notes |= {note for one in names for note in own.sidecar.notes(kind, one)}
    assert {note for note in notes if not note.startswith(LEFT)} == set()


# `upstream_bind_config` is for Envoy's own connections on the way in.
LEFT = (
    "Cluster.upstream_bind_config:",
    "Cluster.cleanup_interval:",
    "Cluster.respect_dns_ttl:",
    "Listener.filter_chains[0].filters[0].typed_config.http_filters[1]: 'envoy.filters.http.grpc_web' is skipped",
    "Listener.filter_chains[0].filters[0]: 'envoy.filters.network.mongo_proxy'",
)


def view(name: str, root: str) -> ListenerView:
    return sidecar(name).outbound(root)


def clusters(found: ListenerView) -> frozenset[str]:
    assert found.routes is not None
    return found.routes.cluster_names


MANY = "many.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("root", "cluster"),
    [
        ("many:9004", f"outbound|9004||{MANY}"),  # by 0.0.0.0_9004
        ("many:9003", f"outbound|9003||{MANY}"),  # whatever it speaks, at the service's address
        ("many.default:9000", f"outbound|9000||{MANY}"),  # bytes, at the service's address
        ("10.96.0.1:9000", f"outbound|9000||{MANY}"),
        ("10.96.0.1:9004", f"outbound|9004||{MANY}"),
    ],
)
def test_a_listener_is_found_by_the_services_address_and_by_the_port(root: str, cluster: str) -> None:
    assert clusters(view("protocols", root)) == {cluster}


@pytest.mark.parametrize("root", ["nobody:9004", "nobody:9000", "many:80", "10.96.0.9:9000", "many.:9000"])
def test_what_no_listener_knows_is_unknown_to_the_mesh(root: str) -> None:
    found = view("protocols", root)
    assert (found.does_not_exist, found.listener) == (True, None)


def test_hosts_that_must_not_be_called_are_answered_as_a_sidecar_does() -> None:
    for root in ("other.example:9080", "other.example:8888", "other.example:443"):
        found = view("registry_only_bytes", root)
        assert found.routes is not None
        [route] = found.routes.virtual_hosts[0].routes
        assert (route.name, getattr(route.action, "status", 0)) == ("block_all", 502)
    assert view("registry_only_bytes", "x.wild.example.com:443").passes_through


def test_hosts_without_an_address_are_looked_up_under_their_own_names() -> None:
    own = sidecar("service_entry_none")
    found = own.outbound("a.wild.example.com:80")
    assert clusters(found) == {"original_dst@a.wild.example.com:80|80||*.wild.example.com"}
    [name] = clusters(found)
    assert own.snapshot.clusters[name].endpoints is not None
    assert own.cache.get(ResourceType.CLUSTER, "outbound|80||*.wild.example.com") is None


def test_only_what_is_asked_for_is_parsed_and_subscribed_to() -> None:
    own = sidecar("services")
    own.outbound("reviews:9080")
    names = {name for kind, name, _ in own.cache if kind is ResourceType.CLUSTER}
    assert names == {"outbound|9080||reviews.default.svc.cluster.local"}


def test_a_view_stays_the_same_object_where_nothing_of_it_changes() -> None:
    own = sidecar("services")
    before = own.outbound("reviews:9080")
    own.outbound("nobody:9080")
    own.send_again()
    assert own.outbound("reviews:9080") is before


def test_what_the_other_profile_leaves_out_arrives() -> None:
    own = sidecar("outliers")
    found = [entry for entry in own.clusters() if entry.outlier_detection is not None]
    assert found
    assert all(isinstance(one.outlier_detection, OutlierDetection) for one in found)


@pytest.mark.parametrize("has_identity", [True, False])
def test_mutual_tls_is_each_endpoints_own_matter_for_who_has_an_identity(has_identity: bool) -> None:
    own = sidecar("auto_mutual_tls", has_identity=has_identity)
    [name] = clusters(own.outbound("secure:80"))
    found = own.snapshot.clusters[name]
    assert found.cluster is not None
    assert found.endpoints is not None
    tls = {
        str(one.address): found.cluster.tls_of(one) for group in found.endpoints.localities for one in group.endpoints
    }
    secured = tls.pop("10.0.9.1:8080")
    assert tls == {"10.0.9.2:8080": None, "10.0.9.3:8080": None}
    assert (secured is not None) is has_identity
    if secured is not None:
        assert is_mesh_mutual(secured)
        names = {one.value.value for one in secured.trust.san_matchers}
        assert names == {f"spiffe://cluster.local/ns/default/sa/{one}" for one in ("other", "secure")}
    # grpc-core could not reach sidecars in PERMISSIVE.
    [group] = found.endpoints.localities
    assert {found.cluster.configured_tls_of(one) for one in group.endpoints} == {None}
