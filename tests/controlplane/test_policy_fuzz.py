"""Damaged policy files: nobody gets in whom the good file kept out, neither after a start nor on a running server.

A file is cut at every byte, and its bytes, lines and indentation are changed at random. What is left may be another
policy that somebody could have meant (another path, no `action`): PyYAML, which reads more than we do, is the judge of
that, and such an example says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsdk.controlplane.folder import Folder, load
from tests.differential.tokens import ISSUERS

from .verdicts import PORT, Asked, let_in

PEERS = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: strict
spec:
  mtls:
    mode: STRICT
"""
DENY = """kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata:
  name: admins
  namespace: default
spec:
  rules:
  - to:
    - operation:
        paths: ["/admin*"]
  action: DENY
  selector: {matchLabels: {app: web}}
"""
ALLOW = """apiVersion: "security.istio.io/v1beta1"
kind: AuthorizationPolicy
metadata: {name: readers}
spec: {rules: [{when: [{key: "request.headers[x-role]", values: [reader]}], to: [{operation: {methods: ["GET"]}}]}]}
"""
TOKENS = f"""apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata:
  name: tokens
spec:
  jwtRules:
  - issuer: one
    jwks: '{json.dumps(ISSUERS["two"])}'
"""
MESH = """apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  mesh: |
    {rootNamespace: mesh-root, pathNormalization: {normalization: MERGE_SLASHES}}
"""
ROOT = DENY.replace("namespace: default", "namespace: mesh-root")
LISTENER = json.dumps(
    {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{PORT}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}},
        "filter_chains": [],
    },
    indent=1,
)

# The file that is damaged, beside others that stay.
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "PeerAuthentication": (PEERS, {}),
    "DENY": (DENY, {}),
    "ALLOW": (ALLOW, {}),
    "RequestAuthentication": (TOKENS, {}),
    "MeshConfig": (MESH, {"root.yaml": ROOT}),
    "DENY of the root namespace": (ROOT, {"mesh.yaml": MESH}),
    "listener": (LISTENER, {}),
}
# Of the server whose requests are decided; a Service would only be more to translate.
REST = f"""apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web}}
spec: {{address: 127.0.0.1, labels: {{app: web}}, ports: {{http: {PORT}}}}}
"""
ASKED: list[Asked] = [
    ("GET", "/", ()),
    ("GET", "/admin", ()),
    ("GET", "//admin", ((b"x-role", b"reader"),)),
    ("POST", "/", ((b"x-role", b"writer"),)),
    ("GET", "/", ((b"authorization", b"Bearer nobody's"),)),
]

# Fields without which a policy is another one that may be meant, and whose words are free.
OPTIONAL = ("action", "namespace", "selector", "when", "to", "pathNormalization")
FREE = ("name", "namespace", "app", "paths", "methods", "values", "issuer", "jwks", "rootNamespace", "address")


def is_another_policy(text: bytes, good: str) -> bool:
    """Whether somebody may have meant this: the same object, as far as words are not free and fields not optional."""
    try:
        documents = [one for one in yaml.safe_load_all(text.decode()) if one is not None]
        [before] = yaml.safe_load_all(good)
        return not documents or (len(documents) == 1 and may_be_meant(documents[0], before, ""))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def may_be_meant(value: Any, good: Any, name: str) -> bool:
    if name == "mesh" and isinstance(value, str):
        value, good, name = yaml.safe_load(value), yaml.safe_load(good), ""
    if name == "matchLabels" and isinstance(value, dict) and value:
        return all(isinstance(one, str) for one in (*value, *value.values()))
    if isinstance(good, dict) and isinstance(value, dict):
        missing = good.keys() - value.keys()
        return (
            value.keys() <= good.keys()
            and missing <= set(OPTIONAL)
            and all(may_be_meant(value[key], good[key], key) for key in value)
        )
    if isinstance(good, list) and isinstance(value, list):
        return len(value) >= len(good) and all(may_be_meant(one, good[0], name) for one in value)
    return type(value) is type(good) and (value == good or name in FREE)


@pytest.fixture(params=FILES)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, list[bool]]:
    """The file, what is good there, and who gets in by that."""
    good, others = FILES[request.param]
    for name, text in {"rest.yaml": REST, **others}.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / "policy.yaml"
    path.write_text(good)
    state = load(tmp_path)
    assert not state.errors
    allowed = let_in(state, ASKED)
    assert not all(allowed), "the good file keeps somebody out"
    return path, good, allowed


def check(path: Path, good: str, allowed: list[bool], text: bytes) -> None:
    """The file says `text` when a server starts, and when it runs."""
    if is_another_policy(text, good):
        return
    path.write_text(good)
    running = Folder(path.parent, settle_seconds=0)
    running.read()
    path.write_bytes(text)
    running.read()
    for state in (load(path.parent), running.state):
        opened = [one for one, was, now in zip(ASKED, allowed, let_in(state, ASKED), strict=True) if now and not was]
        assert not opened, f"{opened} got in by {text!r}"


def test_a_policy_that_is_cut_anywhere_lets_nobody_in(damaged: tuple[Path, str, list[bool]]) -> None:
    path, good, allowed = damaged
    # Key sets are long, and every place in one is like the next.
    ends = [*range(1, min(len(good), 230)), *range(230, len(good), 97)]
    for end in ends:
        check(path, good, allowed, good.encode()[:end])


def changes(draw: st.DrawFn, text: bytes) -> bytes:
    kind = draw(st.sampled_from(["flip", "cut", "insert", "indent", "drop", "twice", "swap", "replace", "whole"]))
    at = draw(st.integers(0, len(text) - 1))
    lines = text.split(b"\n")
    row = draw(st.integers(0, len(lines) - 1))
    if kind == "flip":
        return text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
    if kind == "cut":
        return text[:at] + text[at + draw(st.integers(1, 12)) :]
    if kind == "insert":
        return text[:at] + draw(st.sampled_from(NASTY)) + text[at:]
    if kind == "indent":
        until = draw(st.integers(row, len(lines)))
        by = draw(st.integers(-4, 4))
        lines[row:until] = [indented(one, by) for one in lines[row:until]]
    elif kind == "drop":
        del lines[row]
    elif kind == "twice":
        lines.insert(draw(st.integers(0, len(lines))), lines[row])
    elif kind == "swap":
        other = draw(st.integers(0, len(lines) - 1))
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == "replace":
        one, other = draw(st.permutations([b" ", b":", b"-", b'"', b"\n", b"{", b"}", b",", b"e", b"s"]))[:2]
        return text.replace(one, other, draw(st.integers(1, 3)))
    else:
        return draw(st.sampled_from(WHOLE))(text)
    return b"\n".join(lines)


def indented(line: bytes, by: int) -> bytes:
    return b" " * by + line if by > 0 else line[min(-by, len(line) - len(line.lstrip())) :]


NASTY = [
    b"#",
    b"'",
    b'"',
    b"\t",
    b"\x00",
    b"\xff",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\n\n",
]
NASTY += [
    b"---\n",
    b"\n---\n",
    b"...\n",
    b"&a ",
    b"*a",
    b"!!str ",
    b"!x ",
    b"<<: ",
    b"? ",
    b"| ",
    b"> ",
    b"%",
    b"@",
    b"`",
]
NASTY += [b"{", b"}", b"[", b"]", b", ", b": ", b"- ", b"null", b"true", b"spec:", b"kind: Secret\n", b"items: []\n"]
WHOLE = [
    lambda text: text.decode("utf-8", "replace").encode("utf-16"),
    lambda text: text.decode("utf-8", "replace").encode("utf-16-le"),
    lambda text: text.replace(b"\n", b"\r\n"),
    lambda text: text.replace(b"\n", b"\r"),
    lambda text: text.replace(b"\n", b"\xc2\x85"),
    lambda text: text.replace(b"\n", b"\n "),
    lambda text: text.replace(b"\n", b"\n# ", 1),
    lambda text: text.replace(b"  ", b"\t"),
    lambda text: text.lower(),
    lambda text: text.upper(),
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: b"spec:\n " + text.replace(b"\n", b"\n "),
    lambda text: b"data:\n- " + text.replace(b"\n", b"\n  "),
    lambda text: text + text,
    lambda text: text[::-1],
]


# The same examples each time: longer runs are for those who change what is read.
@settings(
    max_examples=45,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_policy_that_is_damaged_at_random_lets_nobody_in(
    damaged: tuple[Path, str, list[bool]], data: st.DataObject
) -> None:
    path, good, allowed = damaged
    text = good.encode()
    for _ in range(data.draw(st.integers(1, 2))):
        text = data.draw(st.composite(changes)(text)) or b"\n"
    check(path, good, allowed, text)
