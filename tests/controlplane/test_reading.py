"""Texts to documents: what YAML and JSON mean, where documents end, what is kept of them, and which line is named."""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk.controlplane import reading
from meshsdk.controlplane.documents import Document, Pieces, read_documents, text_pieces
from meshsdk.controlplane.folder import Folder, load
from meshsdk.controlplane.lines import with_lines
from meshsdk.controlplane.memo import Memo
from meshsdk.controlplane.state import FolderState
from meshsdk.controlplane.strict_json import parse_json
from meshsdk.controlplane.strict_yaml import YamlError, parse_yaml, read_yaml
from meshsdk.errors import ConfigError
from meshsdk.resources import ResourceType
from tests.conftest import service, virtual_service
from tests.controlplane.told_apart import assert_told_apart

# YAML of one meaning.

MEANT = {
    "a: 1\nb: 0x1f\nc: 010\nd: 1_000": {"a": 1, "b": 31, "c": 8, "d": 1000},
    "a: 1.5\nb: 1e3\nc: 12:30\nd: 2026-01-01": {"a": 1.5, "b": "1e3", "c": "12:30", "d": "2026-01-01"},
    "a: yes\nb: 'yes'\nc: ~\nd:\ne: ''": {"a": True, "b": "yes", "c": None, "d": None, "e": ""},
    "1: a\non: b\n'on': c\n1.5: d": {"1": "a", True: "b", "on": "c", "1.5": "d"},
    "a: !!str 1\nb: ! x\nc: !!int '7'": {"a": "1", "b": "x", "c": 7},
    "a: &x {p: 1}\nb: *x\nc: {<<: *x, q: 2}\nd: {<<: [{q: 1}, {q: 2}], p: 3}": {
        "a": {"p": 1},
        "b": {"p": 1},
        "c": {"p": 1, "q": 2},
        "d": {"q": 1, "p": 3},
    },
    "'<<': {a: 1}": {"<<": {"a": 1}},
    "- &x a\n- *x\n- [*x, *x]": ["a", "a", ["a", "a"]],
    "--- |\n a\n b\n": "a\nb\n",
}
REFUSED = {
    "a: 1\nb: 2\na: 3": "line 3: the key 'a' stands twice",
    "a: {<<: {p: 1}, <<: {p: 2}}": "'<<' stands twice",
    "a: {<<: 1}": "'<<' must be an object",
    "? [a]\n: b": "a key must be a word",
    "~: b": "a key must be a word, is nothing",
    "- &x a\n- {*x : 1}": "a key must be a word, is an alias",
    "a: !!binary aGk=": "the tag 'tag:yaml.org,2002:binary' is not taken",
    "a: !!python/object:os.system {}": "is not taken",
    "a: !!set {b}": "is not taken",
    "a: !!bool x": "is no value of the tag",
    "a: .inf": "must be finite",
    "a: 99999999999999999999": "more than 64 bits",
    "a: *x": "the alias 'x' stands for nothing",
    "a: &x 1\nb: &x 2": "the anchor 'x' stands twice",
    "a: &x [*x]": "stands inside of what it stands for",
    "a: " + "[" * 101 + "]" * 101: "nested more than 100 deep",
    "a: &x [[[[[[[[[[1]]]]]]]]]]\nb: " + "[" * 95 + "*x" + "]" * 95: "nested more than 100 deep",
    "a: &x 1\nb: [" + "*x, " * 101 + "]": "more than 100 aliases",
    "a: [1": "did not find expected",
    "a: 'x": "end of stream",
}


@pytest.mark.parametrize("text", MEANT)
def test_yaml_means(text: str) -> None:
    assert repr(parse_yaml(text)) == repr([MEANT[text]])


@pytest.mark.parametrize("text", REFUSED)
def test_yaml_that_has_no_one_meaning_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert REFUSED[text] in caught.value.problem
    assert "line " in caught.value.problem


def test_aliases_of_all_documents_of_a_file_count(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("---\n".join(f"a: &x {one}\nb: [{'*x, ' * 60}]\n" for one in range(2)))
    with pytest.raises(ConfigError, match=r"document 2: is not YAML: has more than 100 aliases"):
        read_documents(path)


# JSON is read as JSON, and means what it means as YAML.

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=6),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(_VALUES.filter(lambda value: isinstance(value, dict | list)))
def test_json_is_what_it_was(value: Any) -> None:
    assert repr(parse_json(json.dumps(value))) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": 1, "a": 1}', '[{"a": {"b": 1, "b": 2}}]', '{"a": NaN}', '{"a": 1e999}', '{"a": 18446744073709551616}'),
        *('{"a": "\\ud800"}', '{"\\ud800": 1}', "[" * 101 + "]" * 101, "[" * 100_000, '{"a": 1} {}', "{a: 1}"),
    ],
)
def test_json_that_has_no_one_meaning_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_json_file_with_a_key_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "Pod",\n "kind": "Pod"}')
    with pytest.raises(ConfigError, match=r"line 2: the key 'kind' stands twice"):
        read_documents(tmp_path / "a.json")


def test_what_only_looks_like_json_is_read_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{kind: Kustomization, a: 010} # a comment")
    [document] = read_documents(tmp_path / "a.json")
    assert document.data["kind"] == "Kustomization"


# A text is cut between its documents, and nowhere else.

_LINES = (
    *("a: 1", "- b", "---", "--- ", "---\t# x", "---x", "--- |", " ---", "'", '"', "x: |", "  ---", "x: '"),
    *("...", "%YAML 1.1", "# ---", "{", "}", "[", "]", "", "  c: 2", "\r", "-- -"),
)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(_LINES), max_size=9), st.sampled_from(["\n", "\r\n"]))
def test_pieces_of_a_text_say_what_the_whole_says(lines: list[str], end: str) -> None:
    text = end.join(lines)
    # To YAML it ends a line, to nobody else.
    has_lines = "\r" not in text.replace("\r\n", "")
    assert "".join(piece for _, piece in text_pieces(text)) == text
    found: Any = []
    try:
        for line, piece in text_pieces(text):
            assert text.split("\n")[line - 1 :][:1] == piece.split("\n")[:1] or not piece
            found += [(one.data, one.line * has_lines) for one in read_yaml(piece, line)[0]]
    except YamlError:
        found = None
    try:
        whole = [(one.data, one.line * has_lines) for one in read_yaml(text)[0]]
    except YamlError:
        whole = None
    assert found == whole


def test_an_edit_reads_only_the_documents_that_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    texts = [service(name, 1).removeprefix("---\n") for name in "abc"]
    path.write_text("---\n".join(texts))
    known: Pieces = {}
    before = read_documents(path, known)
    read: list[str] = []

    def noted(text: str, *rest: Any) -> Any:
        read.append(text)
        return read_yaml(text, *rest)

    monkeypatch.setattr("meshsdk.controlplane.documents.read_yaml", noted)
    texts[1] = texts[1].replace("port: 80", "port: 81")
    path.write_text("---\n".join(texts))
    after = read_documents(path, known)
    assert read
    assert all("81" in text or "{name: b}" not in text for text in read)
    assert after[0] == before[0]
    assert after[-1].data is before[-1].data
    assert len(read) < len(before)


# Lists.


def documents(tmp_path: Path, text: str, name: str = "a.yaml") -> tuple[Document, ...]:
    (tmp_path / name).write_text(text)
    return read_documents(tmp_path / name)


def test_items_of_a_typed_list_have_its_kind_and_version(tmp_path: Path) -> None:
    item = {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    text = json.dumps(
        {"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [item]}
    )
    [one] = documents(tmp_path, text, "services.json")
    assert one.kind == ("", "Service")
    state = load(tmp_path)
    assert not state.problems
    assert "a.default.svc.cluster.local" in state.world.services


@pytest.mark.parametrize("kind", ["AuthorizationPolicyList", "AuthorisationPolicyList"])
def test_an_item_of_a_typed_list_may_be_a_policy(tmp_path: Path, kind: str) -> None:
    text = json.dumps(
        {
            "kind": kind,
            "apiVersion": "security.istio.io/v1",
            "items": [{"metadata": {"name": "p"}, "spec": {"rulez": []}}],
        }
    )
    documents(tmp_path, text, "policies.json")
    assert load(tmp_path).world.security.broken


def test_items_of_a_plain_list_are_given_no_kind(tmp_path: Path) -> None:
    documents(tmp_path, "apiVersion: v1\nkind: List\nitems: [{metadata: {name: a}, spec: {}}]")
    assert load(tmp_path).world.security.broken


# What nobody reads is not kept.


def test_of_a_dump_only_what_is_read_is_kept(tmp_path: Path) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"app": "a"}, "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": "n", "tolerations": [], "containers": [{"image": "i", "ports": [{"containerPort": 1}]}]},
        "status": {"podIP": "10.0.0.1", "phase": "Running", "qosClass": "Burstable"},
    }
    [kept] = documents(tmp_path, yaml.safe_dump(pod))
    assert kept.data["metadata"] == {"name": "a", "labels": {"app": "a"}}
    assert kept.data["spec"] == {"nodeName": "n", "containers": [{"ports": [{"containerPort": 1}]}]}
    assert kept.data["status"] == {"podIP": "10.0.0.1", "phase": "Running"}
    [secret] = documents(tmp_path, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {password: cGFzcw==}")
    assert secret.data == {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}


def test_a_policy_is_looked_for_in_what_is_not_kept(tmp_path: Path) -> None:
    policy = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": [policy]}}
    documents(tmp_path, yaml.safe_dump(pod))
    assert any("AuthorizationPolicy inside of it" in text for text in load(tmp_path).world.security.broken)


# Lines.

WRONG = (
    service("a", 1)
    + """---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match:
    - uri: {prefix: /}
    timeout: soon
    route: [{destination: {host: a}}]
"""
)


def line_of(text: str, words: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if words in line)


def test_a_problem_names_the_line_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    [text] = load(tmp_path).errors
    assert ".spec.http[0].timeout: must be a duration" in text
    assert text.endswith(f"(line {line_of(WRONG, 'timeout: soon')})")


def test_a_field_that_is_missing_is_on_the_line_of_what_lacks_it(tmp_path: Path) -> None:
    text = WRONG.replace("    timeout: soon\n    route: [{destination: {host: a}}]", "    name: x")
    (tmp_path / "a.yaml").write_text(text)
    [error] = load(tmp_path).errors
    assert error.endswith(f"(line {line_of(text, '- match:')})")


def test_a_problem_in_an_item_of_a_list_names_its_line(tmp_path: Path) -> None:
    rule = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec:\n  ports:\n  - name: http\n    port: PORT"
    items = [rule.replace("NAME", f"s{one}").replace("PORT", "80" if one != 1 else "x") for one in range(3)]
    text = (
        "apiVersion: v1\nitems:\n" + "".join("- " + one.replace("\n", "\n  ") + "\n" for one in items) + "kind: List\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    [error] = load(tmp_path).errors
    assert "a.yaml item 1 Service/s1.spec.ports[0].port" in error
    assert error.endswith(f"(line {line_of(text, 'port: x')})")
    (tmp_path / "a.yaml").write_text(text.replace("port: x", "port: 80").replace("s2}", "s2, lables: {}}"))
    [error] = load(tmp_path).errors
    assert error.endswith(f"(line {line_of(text, 's2}')})")


def test_a_file_that_has_changed_since_names_the_line_where_the_document_began(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    documents = read_documents(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("# another text\n" + WRONG)
    text = f"{documents[-1].where} VirtualService/a.spec.http[0].timeout: must be a duration"
    [told] = with_lines([text], {tmp_path / "a.yaml": documents})
    assert told.endswith(f"(line {documents[-1].line})")


def test_an_edit_that_moves_an_error_down_is_an_edit_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    running = Folder(tmp_path, settle_seconds=0)
    running.read()
    text = service("b", 1).removeprefix("---\n") + "---\n" + WRONG
    (tmp_path / "a.yaml").write_text(text)
    running.read()
    assert "b.default.svc.cluster.local" in running.state.world.services
    assert running.state.errors[0].endswith(f"(line {line_of(text, 'timeout: soon')})")


_ENTRY = """apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{0}, labels: {{app: a}}}}
spec: {{address: 10.0.0.{0}, labels: {{app: a}}, weight: {1}}}
"""
_POD = """apiVersion: v1
kind: Pod
metadata: {{name: p{0}, labels: {{app: a}}}}
status: {{podIP: 10.0.1.{0}, conditions: [{{type: Ready, status: "{1}"}}]}}
"""
_SLICE = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{0}, labels: {{kubernetes.io/service-name: a}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.0.2.{0}], conditions: {{ready: {1}}}, nodeName: n}}]
"""
_NODE = "apiVersion: v1\nkind: Node\nmetadata: {{name: n, labels: {{topology.kubernetes.io/region: r{0}}}}}\n"
_A = """apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{selector: {{app: a}}, ports: [{{port: {0}}}]}}
"""
# Of each of the seven documents of a folder, what it may say; the last of each is wrong.
_SAYINGS: list[list[str]] = [
    [_A.format(80), _A.format(81), _A.format(0)],
    [_ENTRY.format(1, 1), _ENTRY.format(1, 2), _ENTRY.format(1, -1)],
    [_ENTRY.format(2, 1), _ENTRY.format(3, 1), "kind: [\n"],
    [_POD.format(1, "True"), _POD.format(1, "False"), _POD.format(1, "True").replace("podIP", "podIPP")],
    [_SLICE.format(1, "true"), _SLICE.format(1, "false"), _SLICE.format(1, "maybe")],
    [_SLICE.format(2, "true"), "", _SLICE.format(2, "true").replace("8080", "many")],
    [_NODE.format(1), _NODE.format(2), _NODE.format(1).replace("metadata", "metadate")],
]


@given(edits=st.lists(st.lists(st.integers(0, 1), min_size=7, max_size=7), min_size=1, max_size=5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_was_edited_the_folder_means_what_it_says_now(edits: list[list[int]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "all.yaml")
        folder = Folder(name, settle_seconds=0)
        for edit in edits:
            sayings = [every[said] for every, said in zip(_SAYINGS, edit, strict=True)]
            if data.draw(st.booleans()):
                # What is wrong costs nothing of what is right.
                place = data.draw(st.integers(0, 6))
                path.write_text("---\n".join([*sayings[:place], _SAYINGS[place][2], *sayings[place + 1 :]]))
                folder.read()
            path.write_text("---\n".join(sayings))
            folder.read()
        fresh = load(Path(name))
        assert folder.state.grpc == fresh.grpc
        assert folder.state.problems == fresh.problems == ()
        assert folder.state.sidecar == fresh.sidecar


SLICE = (
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    "metadata: {name: a, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\n"
    "ports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.0.0.1]}]\n"
)


def edited(folder: Path, running: Folder, *documents: str) -> list[str]:
    """What is said of a file after an edit."""
    before = running.state
    (folder / "a.yaml").write_text("---\n".join(documents))
    running.refresh()
    fresh = load(folder)
    assert [one.text for one in running.state.problems] == [one.text for one in fresh.problems]
    assert running.state.version == fresh.version
    assert running.state.grpc == fresh.grpc
    assert_told_apart(before, running.state)
    return [one.text for one in fresh.problems]


def test_what_is_said_of_an_object_that_was_not_edited_is_said_again(tmp_path: Path) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    warned = SLICE + "unheard: of\n"
    before = edited(tmp_path, running, service("a"), warned)
    assert any("unheard" in text for text in before)
    assert edited(tmp_path, running, service("a"), warned, service("b")) == before


def test_an_object_that_others_were_put_before_is_named_by_its_new_place(tmp_path: Path) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    warned = SLICE + "unheard: of\n"
    [before] = edited(tmp_path, running, service("a"), warned)
    [after] = edited(tmp_path, running, service("b"), service("a"), warned)
    assert "document 2" in before
    assert "document 3" in after


def test_an_object_that_stands_in_two_places_is_known_by_each(tmp_path: Path) -> None:
    """Its text is kept once."""
    running = Folder(tmp_path, settle_seconds=0)
    for documents in ((service("a"), SLICE), (SLICE, service("a"), SLICE), (SLICE, service("a"))):
        told = edited(tmp_path, running, *(one + "unheard: of\n" if one is SLICE else one for one in documents))
        places = [place for place, one in enumerate(documents) if one is SLICE]
        assert [f"document {place + 1}" in text for place, text in zip(places, told, strict=True)] == [True] * len(
            places
        )


def test_rules_are_as_old_as_their_places_say_whatever_was_not_edited(tmp_path: Path) -> None:
    """Of two of one host the older one holds, and ages are numbered through all objects."""
    running = Folder(tmp_path, settle_seconds=0)
    rules = [virtual_service("a", f"[{{directResponse: {{status: {status}}}}}]").lstrip("-\n") for status in (201, 202)]
    edited(tmp_path, running, SLICE, service("a"), rules[0])
    edited(
        tmp_path,
        running,
        SLICE,
        service("a"),
        *(rule.replace("name: a", f"name: r{n}") for n, rule in enumerate(rules)),
    )


WARNED = service("a") + "unheard: of\n"


def test_an_edit_that_only_moves_lines_moves_those_of_problems(tmp_path: Path) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    for comments in (0, 2, 5, 1):
        [told] = edited(tmp_path, running, "# a comment\n" * comments + WARNED)
        assert told.endswith(f"(line {comments + line_of(WARNED, 'unheard')})")


def test_lines_of_what_is_refused_move_as_well(tmp_path: Path) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    edited(tmp_path, running, service("a"))
    for comments in (0, 3):
        (tmp_path / "a.yaml").write_text("# a comment\n" * comments + WRONG)
        running.refresh()
        assert f"(line {comments + line_of(WRONG, 'timeout: soon')})" in running.state.errors[0]


def test_an_edit_that_only_moves_lines_is_not_published(tmp_path: Path) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    edited(tmp_path, running, WARNED)
    (tmp_path / "a.yaml").write_text("# a comment\n" + WARNED)
    assert not running.refresh()


# A raw resource may name a file.

FILED = """"@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
name: filed
virtual_hosts:
- name: all
  domains: ["*"]
  routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{filename: {0}}}}}}}]
"""


@pytest.mark.parametrize("other", ["a.yaml", "b.yaml"])
def test_an_error_about_a_file_that_is_missing_goes_with_the_edit_after_it_came(tmp_path: Path, other: str) -> None:
    running = Folder(tmp_path, settle_seconds=0)
    text = FILED.format(tmp_path / "body.html")
    [told] = edited(tmp_path, running, text)
    assert "body.filename: cannot be read" in told
    (tmp_path / "body.html").write_text("<p>hello")
    (tmp_path / other).write_text("# the body is there now\n" + (text if other == "a.yaml" else service("b")))
    assert running.refresh()
    assert running.state.problems == ()
    assert (ResourceType.ROUTE_CONFIGURATION, "filed") in running.state.grpc


# What has an effect has a version.

LABELLED = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p}}
spec: {{selector: {{matchLabels: {{{0}: x}}}}, action: DENY, rules: [{{}}]}}
"""


@pytest.mark.parametrize(("key", "word"), [("true", '"true"'), ("off", '"false"'), ("on", '"true"')])
def test_a_policy_whose_key_was_no_word_is_published_when_it_is_one(tmp_path: Path, key: str, word: str) -> None:
    """YAML has keys that are true or false, and JSON has none."""
    running = Folder(tmp_path, settle_seconds=0)
    [told] = edited(tmp_path, running, LABELLED.format(key))
    assert "quote it" in told
    assert running.state.world.security.broken
    (tmp_path / "a.yaml").write_text(LABELLED.format(word))
    assert running.refresh()
    assert not running.state.world.security.broken


def test_a_document_at_fault_keeps_nothing_of_the_states_it_was_in(tmp_path: Path) -> None:
    def states() -> int:
        gc.collect()
        return sum(isinstance(one, FolderState) for one in gc.get_objects())

    running = Folder(tmp_path, settle_seconds=0)
    misspelt = LABELLED.format("a").replace("AuthorizationPolicy", "AuthorisationPolicy")
    edited(tmp_path, running, misspelt)
    before = states()
    for name in "bcdefgh":
        edited(tmp_path, running, misspelt.replace("name: p", f"name: {name}"))
    assert states() <= before + 1


def test_objects_that_were_not_edited_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_anew = reading._read

    def counted(document: Document, domain: str, memo: Memo) -> reading.Reading:
        read.append(document.where)
        return read_anew(document, domain, memo)

    monkeypatch.setattr(reading, "_read", counted)
    running = Folder(tmp_path, settle_seconds=0)
    for number in range(4):
        (tmp_path / "a.yaml").write_text("---\n".join([service("a", port=80 + number), SLICE]))
        running.refresh()
    assert [where.rpartition(" ")[2] for where in read] == ["1", "2", "1", "1", "1"]
