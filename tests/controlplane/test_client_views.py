"""Views of many clients: made once, kept from edit to edit, and forgotten with those that ask no more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from meshsdk.controlplane import view as view_module
from meshsdk.controlplane.client import ANYBODY, Client
from meshsdk.controlplane.client_rules import ClientRules
from meshsdk.controlplane.client_views import ClientMemos
from meshsdk.controlplane.folder import Folder, load
from meshsdk.controlplane.memo import Memo
from meshsdk.controlplane.packing import Packed, Packer, Resources
from meshsdk.controlplane.scope import Scope
from meshsdk.resources import ResourceType
from tests.conftest import service, virtual_service

KINDS = [Client(f"team-{number}") for number in range(80)]
# What edits below do not reach.
UNTOUCHED = ResourceType.ROUTE_CONFIGURATION, "outbound|80||a.default.svc.cluster.local"


class Edited:
    """A folder that is edited again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = Folder(path, settle_seconds=0)
        self._edits = 0

    def edit(self) -> None:
        """Change a timeout."""
        self._edits += 1
        rule = virtual_service("b", f"[{{timeout: {self._edits}s, route: [{{destination: {{host: b}}}}]}}]")
        (self.path / "a.yaml").write_text(service("a") + "---\n" + service("b") + rule)
        assert self.folder.refresh()

    def served(self, client: Client) -> Packed:
        """What a client has of the folder now."""
        return self.folder.state.view(client).grpc

    def kept(self, client: Client) -> bytes:
        """Of that, what is the same object as long as it is not made again."""
        return self.served(client)[UNTOUCHED]


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    made = Edited(tmp_path)
    made.edit()
    return made


def test_of_many_kinds_of_clients_each_has_what_the_folder_says(edited: Edited) -> None:
    for _ in range(3):
        edited.edit()
        fresh = load(edited.path)
        for client in KINDS:
            assert edited.served(client) == fresh.view(client).grpc


def test_of_many_kinds_of_clients_most_have_what_an_edit_does_not_reach_made_once(edited: Edited) -> None:
    for _ in range(3):
        before = {client: edited.kept(client) for client in KINDS}
        edited.edit()
        kept = [client for client in KINDS if edited.kept(client) is before[client]]
    assert len(kept) >= 60


def test_however_many_clients_there_are_the_folders_own_view_is_kept(edited: Edited) -> None:
    before = edited.kept(ANYBODY)
    for _ in range(3):
        for client in KINDS:
            edited.served(client)
        edited.edit()
        assert edited.kept(ANYBODY) is before


def test_clients_that_asked_last_are_kept_before_others(edited: Edited) -> None:
    for client in KINDS[:70]:
        edited.served(client)
    for _ in range(3):
        edited.edit()
    before = {client: edited.kept(client) for client in KINDS[70:]}
    edited.edit()
    assert all(edited.kept(client) is before[client] for client in KINDS[70:])


def test_what_was_made_for_a_client_that_asks_no_more_is_forgotten(edited: Edited) -> None:
    asks_no_more, asks_on = KINDS[:2]
    before = {client: edited.kept(client) for client in (asks_no_more, asks_on)}
    for _ in range(20):
        edited.edit()
        edited.served(asks_on)
    assert edited.kept(asks_on) is before[asks_on]
    assert edited.kept(asks_no_more) is not before[asks_no_more]


def test_what_an_older_state_is_asked_for_is_kept_for_the_next_one(edited: Edited) -> None:
    """A stream may be some edits behind the folder."""
    before = edited.kept(KINDS[0])
    for _ in range(20):
        behind = edited.folder.state
        edited.edit()
        assert behind.view(KINDS[0]).grpc[UNTOUCHED] is before
    assert edited.kept(KINDS[0]) is before


def test_edits_that_are_refused_one_by_one_cost_no_client_what_was_made_for_it(edited: Edited) -> None:
    before = edited.kept(KINDS[0])
    for number in range(20):
        (edited.path / f"wrong-{number}.yaml").write_text(virtual_service("a", "[{timeout: soon}]"))
    for _ in range(3):
        edited.edit()
        assert edited.folder.state.errors
        assert edited.kept(KINDS[0]) is before


def test_threads_that_ask_at_once_have_one_view_made_once(edited: Edited, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = view_module.sidecar_listeners

    def counted(scope: Scope, packer: Packer) -> Iterator[Resources]:
        made.append(threading.get_ident())
        return make(scope, packer)

    monkeypatch.setattr(view_module, "sidecar_listeners", counted)
    state, together = edited.folder.state, threading.Barrier(16)
    found: list[Packed] = []

    def ask() -> None:
        together.wait()
        found.append(state.view(KINDS[0]).sidecar)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run([threading.Thread(target=ask) for _ in range(16)])
    finally:
        sys.setswitchinterval(interval)
    assert len(made) == 1
    assert all(one is found[0] for one in found)


def run(threads: Iterable[threading.Thread]) -> None:
    every = [*threads]
    for thread in every:
        thread.start()
    for thread in every:
        thread.join()


def test_of_too_many_clients_those_that_have_just_asked_do_not_take_turns() -> None:
    memos = ClientMemos()
    memos.begin_edit()
    for client in KINDS:
        memos.keep(client, Memo())
    assert [client for client in KINDS if memos.of(client) is not None] == KINDS[:64]


# What is looked at, and what is not.

PEERS = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: {0}}}
spec: {{mtls: {{mode: {1}}}}}
"""
SERVED = """apiVersion: v1
kind: Service
metadata: {{name: a, namespace: {0}}}
spec: {{selector: {{app: a}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: a, namespace: {0}}}
spec: {{address: 10.0.0.1, labels: {{app: a, security.istio.io/tlsMode: istio}}}}
"""


@pytest.mark.parametrize(
    ("place", "others", "remade"), [("one", {"one"}, {"one"}), ("istio-system", {"two"}, {"one", "two"})]
)
def test_a_peer_authentication_reaches_the_clusters_of_its_namespace_or_of_all(
    tmp_path: Path, place: str, others: set[str], remade: set[str]
) -> None:
    modes = {"one": "STRICT", "istio-system": "STRICT"}
    path, folder = tmp_path / "peers.yaml", Folder(tmp_path, settle_seconds=0)
    (tmp_path / "services.yaml").write_text("---\n".join(map(SERVED.format, ("one", "two"))))
    path.write_text("---\n".join(PEERS.format(*one) for one in modes.items()))
    assert folder.refresh()
    before = folder.state.grpc
    path.write_text("---\n".join(PEERS.format(*one) for one in {**modes, place: "DISABLE"}.items()))
    assert folder.refresh()
    after = folder.state.grpc
    assert {name.split(".")[1] for kind, name in after if after[kind, name] != before[kind, name]} == others
    assert {name.split(".")[1] for kind, name in after if after[kind, name] is not before[kind, name]} == remade
    assert after == load(tmp_path).grpc


def test_hosts_that_are_no_service_leave_nothing_behind() -> None:
    rules = ClientRules([], ANYBODY, {"a.example": "default"}, "istio-system", ())
    for number in range(100):
        assert rules.of(f"gone-{number}.example") is None
        assert rules.of("a.example") is None
    assert [*rules._found] == ["a.example"]
