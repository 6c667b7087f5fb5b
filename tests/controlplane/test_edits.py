"""Whatever was edited, and however often: what comes of the steps that an edit reaches is what comes of all of them.

The documents are those that meshsdk is compared with istiod by. They are put together at random, and changed, moved and
removed one at a time; after each edit the state that was made with what was kept of the one before it is compared with
one that is made from nothing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsdk.controlplane.client import ANYBODY, Client
from meshsdk.controlplane.documents import Document, Pieces, read_documents
from meshsdk.controlplane.folder import Folder
from meshsdk.controlplane.state import FolderState, make_state
from meshsdk.resources import ResourceType
from tests.controlplane.told_apart import assert_told_apart
from tests.interop.istio.case import Case, read_corpus

CORPUS_CASES = read_corpus()
CASES = [case.documents for case in CORPUS_CASES]
CLIENTS = (
    ANYBODY,
    Client("shop", (("app", "client"), ("version", "v1")), ("eu-west-1", "eu-west-1a", "")),
    Client("istio-system"),
)
# In which order they are asked for, and by whom at all, is as it may be: what is kept of one must not be another's.
SHAPES = ("grpc", "grpc_core", "sidecar")
FILES = 3
DOMAIN = "cluster.local"

Files = dict[str, list[Any]]
Edit = tuple[str, int, int, int]


class Edited:
    """Files that are edited, and the state that each edit leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: Files = {f"{number}.yaml": [] for number in range(FILES)}
        self._pieces: dict[str, Pieces] = {}
        self._documents: dict[str, tuple[Document, ...]] = {}
        self.kept: FolderState | None = None

    def edit(self, edit: Edit) -> None:
        """Change one thing, and translate."""
        operation, of_file, of_document, seed = edit
        name = f"{of_file % FILES}.yaml"
        documents = self._files[name]
        place = of_document % (len(documents) or 1)
        if operation == "case":
            documents += copy.deepcopy(CASES[seed % len(CASES)])
        elif operation == "insert":
            case = CASES[seed % len(CASES)]
            documents.insert(place, copy.deepcopy(case[of_document % len(case)]))
        elif operation == "rename":
            other = f"{seed % FILES}.yaml"
            self._files[name], self._files[other] = self._files[other], documents
        elif not documents:
            pass  # What changes nothing is an edit, too.
        elif operation == "change":
            change(documents[place], random.Random(seed))
        elif operation == "remove":
            del documents[place]
        elif operation == "move":
            moved = documents.pop(place)
            self._files[f"{seed % FILES}.yaml"].insert(0, moved)
        self._translate()

    def _translate(self) -> None:
        for name, documents in self._files.items():
            path = self._folder / name
            path.write_text("---\n".join(yaml.safe_dump(one, sort_keys=False) for one in documents) or "---\n")
            found = read_documents(path, self._pieces.setdefault(name, {}))
            self._documents[name] = self._documents.get(name, ()) if found == self._documents.get(name) else found
        files = [(Path(name), self._documents[name]) for name in sorted(self._documents)]
        self.kept = make_state(files, DOMAIN, before=self.kept)

    def afresh(self) -> FolderState:
        """The state that is made from nothing."""
        files = [(Path(name), read_documents(self._folder / name)) for name in sorted(self._files)]
        return make_state(files, DOMAIN)


def change(document: Any, chance: random.Random) -> None:
    """Change one value somewhere in a document; it may make no sense any more."""
    places = [*places_in(document)]
    holder, key = chance.choice(places)
    value = holder[key]
    of_others = [one[at] for one, at in places if not isinstance(one[at], dict | list)]
    if chance.random() < 0.5 and KNOWN_VALUES.get(key):
        holder[key] = copy.deepcopy(chance.choice(KNOWN_VALUES[key]))
    elif chance.random() < 0.15:
        del holder[key]
    elif chance.random() < 0.15 and isinstance(value, list):
        value.append(copy.deepcopy(chance.choice(value or of_others)))
    elif isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int):
        holder[key] = chance.choice([value + 1, 0, 1, True])
    elif isinstance(value, str):
        holder[key] = chance.choice([f"{value}-x", "default", "reviews", "v1", "", "7s", *of_others])
    else:
        holder[key] = chance.choice([None, {}, [], value])


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every value below a value, by the object or list that holds it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *places_in(value[key]))]


# By the names of fields, of which most are numbers of lists.
KNOWN_VALUES: dict[Any, list[Any]] = {}
for _holder, _key in places_in(CASES):
    if isinstance(_key, str) and _holder[_key] not in KNOWN_VALUES.setdefault(_key, []):
        KNOWN_VALUES[_key].append(_holder[_key])

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["case", "insert", "change", "change", "change", "remove", "move", "rename"]),
        st.integers(0, FILES - 1),
        st.integers(0, 30),
        st.integers(0, 1000),
    ),
    max_size=8,
)


Asked = Sequence[tuple[Client, str]]


def asked_by(clients: Iterable[Client], chance: random.Random) -> Asked:
    """Some of what clients may ask for, in some order."""
    every = [(client, shape) for client in clients for shape in SHAPES]
    return chance.sample(every, chance.randint(1, len(every)))


def assert_same(kept: FolderState, afresh: FolderState, asked: Asked) -> None:
    assert kept.problems == afresh.problems
    assert kept.version == afresh.version
    assert kept.world == afresh.world
    assert kept.raw == afresh.raw
    for client, shape in asked:
        one, other = kept.view(client), afresh.view(client)
        assert getattr(one, shape) == getattr(other, shape)
        assert list(map(str, one.errors)) == list(map(str, other.errors))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.integers(0, len(CASES) - 1), EDITS, st.integers(0, 1000))
def test_a_state_after_edits_is_the_one_that_is_made_from_nothing(
    tmp_path_factory: pytest.TempPathFactory, first: int, edits: list[Edit], seed: int
) -> None:
    edited, chance = Edited(tmp_path_factory.mktemp("folder")), random.Random(seed)
    edited.edit(("case", 0, 0, first))
    for edit in edits:
        before = edited.kept
        edited.edit(edit)
        assert before is not None
        assert edited.kept is not None
        assert_same(edited.kept, edited.afresh(), asked_by(CLIENTS, chance))
        assert_told_apart(before, edited.kept)


@pytest.mark.parametrize("case", CORPUS_CASES, ids=lambda case: case.name)
def test_each_document_of_a_case_goes_and_comes_again(tmp_path: Path, case: Case) -> None:
    clients = [
        Client(one.namespace, tuple(sorted(one.labels.items())), (*one.locality.split("/"), "", "")[:3])
        for one in case.clients
    ]
    files = []
    for place, document in enumerate(case.documents):
        path = tmp_path / f"{place:02}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        files.append((path, read_documents(path)))
    state, chance = make_state(files, DOMAIN), random.Random(case.name)
    for place in range(len(files)):
        left = [*files[:place], *files[place + 1 :]]
        for now in (left, files):
            before, state = state, make_state(now, DOMAIN, before=state)
            assert_same(state, make_state(now, DOMAIN), asked_by(clients, chance))
            assert_told_apart(before, state)


def test_an_edit_leaves_what_it_does_not_reach(tmp_path: Path) -> None:
    """The same object is what was not made again."""
    path = tmp_path / "all.yaml"
    service = "apiVersion: v1\nkind: Service\nmetadata: {{name: {0}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {0}}}\n"
        "spec: {{hosts: [{0}], http: [{{timeout: {1}, route: [{{destination: {{host: {0}}}}}]}}]}}\n"
    )
    documents = [service.format("a"), service.format("b"), rule.format("a", "1s"), rule.format("b", "1s")]
    path.write_text("---\n".join(documents))
    folder = Folder(tmp_path, settle_seconds=0)
    assert folder.refresh()
    before = folder.state.grpc
    path.write_text("---\n".join([*documents[:3], rule.format("b", "22s")]))
    assert folder.refresh()
    others = {key for key, packed in folder.state.grpc.items() if packed is not before[key]}
    host = "b.default.svc.cluster.local"
    assert {name for _, name in others} == {f"{host}:80", f"outbound|80||{host}"}


def test_a_rule_that_leads_to_a_name_of_another_service_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    text = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, port: 80}]}\n---\n"
        "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\n"
        "spec: {type: ExternalName, externalName: one.example, ports: [{name: http, port: 80}]}\n---\n"
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n"
        "spec: {hosts: [a], http: [{route: [{destination: {host: alias}}]}]}\n"
    )
    folder = Folder(tmp_path, settle_seconds=0)
    routes = ResourceType.ROUTE_CONFIGURATION, "outbound|80||a.default.svc.cluster.local"
    for host in ("one.example", "two.example", "one.example"):
        path.write_text(text.replace("one.example", host))
        assert folder.refresh()
        assert f"outbound|80||{host}".encode() in folder.state.grpc[routes]


_SELECTED = "apiVersion: security.istio.io/v1\nkind: {0}\nmetadata: {{name: p}}\nspec: {{{1}}}\n"
_RULE = "apiVersion: networking.istio.io/v1\nkind: {0}\nmetadata: {{name: a}}\nspec: {{{1}}}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            _SELECTED.format("AuthorizationPolicy", "action: DENY, rules: [{}]"),
            _SELECTED.format("AuthorizationPolicy", "rules: [{}]"),
        ),
        (_SELECTED.format("PeerAuthentication", "mtls: {mode: STRICT}"), _SELECTED.format("PeerAuthentication", "")),
        (
            _SELECTED.format("RequestAuthentication", "jwtRules: [{issuer: a, jwksUri: 'https://a.example'}]"),
            _SELECTED.format("RequestAuthentication", "jwtRules: [{issuer: b, jwksUri: 'https://a.example'}]"),
        ),
        (
            _RULE.format("DestinationRule", "host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
            _RULE.format("DestinationRule", "host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"),
        ),
        (
            _RULE.format("VirtualService", "hosts: [a], http: [{timeout: 1s, route: [{destination: {host: a}}]}]"),
            _RULE.format("VirtualService", "hosts: [a], http: [{timeout: 2s, route: [{destination: {host: a}}]}]"),
        ),
    ],
    ids=["authorization", "peers", "tokens", "clusters", "routes"],
)
def test_an_edit_that_has_an_effect_has_a_version_of_its_own(tmp_path: Path, before: str, after: str) -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, port: 80}]}\n---\n"
    folder, versions = Folder(tmp_path, settle_seconds=0), []
    for text in (before, after, "# a comment\n" + after, before):
        (tmp_path / "all.yaml").write_text(service + text)
        folder.read()
        assert not folder.state.errors
        versions.append(folder.state.version)
    assert versions[0] != versions[1] == versions[2] != versions[3] == versions[0]
