"""Which endpoints a client is to use first, by where it is (istiod: pilot/pkg/networking/core/loadbalancer)."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import destination_rule

HOST = "a.default.svc.cluster.local"
OUTLIERS = "outlierDetection: {consecutive5xxErrors: 5}"
PLACES = ("eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1")
CLIENT = Client(locality=("eu", "a", "1"))

Groups = dict[str, tuple[int, int]]


def priorities(folder: Path, rule: str, client: Client = CLIENT, more: str = "") -> Groups:
    """Priority and weight of each place that is used at all."""
    parts = [
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
        "spec: {selector: {app: a}, ports: [{name: http, port: 80}]}\n"
    ]
    parts += [
        f"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w{place}}}\n"
        f"spec: {{address: 10.0.0.{place + 1}, locality: {text}, labels: {{app: a, rack: r{place % 2}}}, weight: 2}}\n"
        for place, text in enumerate(PLACES)
    ]
    (folder / "m.yaml").write_text("---\n".join(parts) + destination_rule(HOST, f"trafficPolicy: {{{rule}}}") + more)
    state = load(folder)
    assert not state.errors
    packed = state.view(client).grpc[(ResourceType.ENDPOINTS, f"outbound|80||{HOST}")]
    found: Groups = {}
    for group in decode(ResourceType.ENDPOINTS, packed).localities:
        for endpoint in group.endpoints:
            place = PLACES[int(str(endpoint.address).rpartition(":")[0].rpartition(".")[2]) - 1]
            found[place] = (group.priority, group.weight)
    return found


def counts_weights(folder: Path) -> bool:
    name = f"outbound|80||{HOST}"
    cluster = decode(ResourceType.CLUSTER, load(folder).view(CLIENT).grpc[(ResourceType.CLUSTER, name)])
    return cluster.locality_weighted


def only(groups: Groups) -> dict[str, int]:
    return {place: priority for place, (priority, _) in groups.items()}


def test_outlier_detection_alone_turns_on_failover_by_distance(tmp_path: Path) -> None:
    assert only(priorities(tmp_path, OUTLIERS)) == dict(zip(PLACES, (0, 1, 2, 3, 3), strict=True))


@pytest.mark.parametrize(
    "rule",
    [
        "loadBalancer: {simple: RANDOM}",
        f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}",
    ],
)
def test_without_it_or_switched_off_all_places_are_alike(tmp_path: Path, rule: str) -> None:
    assert set(only(priorities(tmp_path, rule)).values()) == {0}


def test_a_region_may_stand_in_for_another(tmp_path: Path) -> None:
    setting = "loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}"
    assert only(priorities(tmp_path, f"{OUTLIERS}, {setting}")) == dict(zip(PLACES, (0, 1, 2, 4, 3), strict=True))


def test_a_client_elsewhere_has_no_gap_in_its_priorities(tmp_path: Path) -> None:
    elsewhere = Client(locality=("us", "z", "9"))
    assert only(priorities(tmp_path, OUTLIERS, elsewhere)) == dict(zip(PLACES, (1, 1, 1, 0, 1), strict=True))


def test_shares_go_to_the_places_that_are_named(tmp_path: Path) -> None:
    setting = "{distribute: [{from: us/*, to: {us/*: 100}}, {from: eu/a/*, to: {'eu/a/*': 80, 'us/*': 20}}]}"
    found = priorities(tmp_path, f"loadBalancer: {{localityLbSetting: {setting}}}")
    assert found == {"eu/a/1": (0, 40), "eu/a/2": (0, 40), "us/a/1": (0, 20)}
    assert counts_weights(tmp_path)


def test_labels_may_say_what_is_near(tmp_path: Path) -> None:
    setting = "loadBalancer: {localityLbSetting: {failoverPriority: [rack, 'app=b']}}"
    client = Client(labels=(("rack", "r1"),), locality=CLIENT.locality)
    found = only(priorities(tmp_path, f"{OUTLIERS}, {setting}", client))
    assert found == dict(zip(PLACES, (1, 0, 1, 0, 1), strict=True))


def test_the_mesh_may_say_so_for_all(tmp_path: Path) -> None:
    mesh = (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'localityLbSetting: {enabled: false}'}\n"
    )
    assert set(only(priorities(tmp_path, OUTLIERS, more=mesh)).values()) == {0}
