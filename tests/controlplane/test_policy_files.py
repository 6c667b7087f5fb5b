"""A file is closed, known, or not ours; what is wrong in one file keeps that file's last good state, and only that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshsdk.controlplane.folder import Folder, FolderState, load
from meshsdk.controlplane.state import INBOUND_PREFIX
from meshsdk.resources import ResourceType, decode
from tests.conftest import destination_rule, service, virtual_service
from tests.differential.tokens import ISSUERS

from .swaps import SWAPS, remove
from .verdicts import PORT, let_in

ASKED = [("GET", "/", ()), ("GET", "/admin", ())]
HOST = "web.default.svc.cluster.local"
DENY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admins}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
"""
ROUTES = virtual_service("web", "[{route: [{destination: {host: web}}]}]")
CLOSED, GUARDED, OPEN = [False, False], [True, False], [True, True]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server and clients of it, and a policy that closes /admin."""
    (tmp_path / "web.yaml").write_text(service("web", PORT))
    (tmp_path / "policy.yaml").write_text(DENY)
    assert let_in(load(tmp_path), ASKED) == GUARDED
    return tmp_path


def edited(folder: Folder) -> FolderState:
    folder.read()
    return folder.state


def watched(path: Path) -> Folder:
    folder = Folder(path, settle_seconds=0)
    folder.read()
    return folder


def has_routes(state: FolderState) -> bool:
    return (ResourceType.LISTENER, f"{HOST}:80") in state.grpc


@pytest.mark.parametrize("swap", SWAPS)
def test_nobody_gets_in_while_a_file_cannot_be_read(folder: Path, swap: str) -> None:
    running = watched(folder)
    SWAPS[swap](folder / "policy.yaml")
    state = load(folder)
    assert let_in(state, ASKED) == CLOSED
    assert any("policy.yaml" in text for text in state.errors), state.errors
    assert has_routes(state), "clients of good files need not wait"
    assert let_in(edited(running), ASKED) == GUARDED
    assert any("policy.yaml" in text and "stays in use" in text for text in running.state.errors)
    # A good one in its place, and everything is as before.
    remove(folder / "policy.yaml")
    remove(folder / "also.yaml")
    (folder / "policy.yaml").write_text(DENY.replace("/admin", "/"))
    assert let_in(edited(running), ASKED) == [False, True]
    assert not running.state.errors


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Permissions do not hold root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["policy.yaml", "sub", "sub/policy.yaml", "."])
def test_what_may_not_be_read_is_as_if_it_were_broken(folder: Path, what: str) -> None:
    (folder / "sub").mkdir()
    (folder / "policy.yaml").rename(folder / "sub" / "policy.yaml")
    if what == "policy.yaml":
        (folder / "sub" / "policy.yaml").rename(folder / "policy.yaml")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)
    with as_somebody_else():
        running = watched(folder)
        assert let_in(running.state, ASKED) == GUARDED
    (folder / what).chmod(0)
    with as_somebody_else():
        assert let_in(load(folder), ASKED) == CLOSED
        assert let_in(edited(running), ASKED) == GUARDED
        assert "Permission denied" in running.state.errors[0]
    (folder / what).chmod(0o755)
    with as_somebody_else():
        assert let_in(edited(running), ASKED) == GUARDED
        assert not running.state.errors


@pytest.mark.parametrize("swap", ["gone", "a link that leads nowhere", "a FIFO", "a file"])
@pytest.mark.parametrize("what", ["the folder", "one in it"])
def test_a_folder_that_is_no_folder_any_more_deletes_nothing(tmp_path: Path, what: str, swap: str) -> None:
    root = tmp_path / "mesh"
    inner = root / "policies"
    inner.mkdir(parents=True)
    (root / "web.yaml").write_text(service("web", PORT))
    (inner / "policy.yaml").write_text(DENY)
    running = watched(root)
    place = root if what == "the folder" else inner
    place.rename(tmp_path / "away")
    if swap == "a link that leads nowhere":
        place.symlink_to("nowhere")
    elif swap == "a FIFO":
        os.mkfifo(place)
    elif swap == "a file":
        place.write_text("")
    is_edit = what == "one in it" and swap in ("gone", "a file")
    assert let_in(edited(running), ASKED) == (OPEN if is_edit else GUARDED)
    assert bool(running.state.errors) is not is_edit
    assert let_in(load(root), ASKED) == (OPEN if is_edit else CLOSED) or swap == "a file"


def test_a_file_that_is_deleted_is_an_edit(folder: Path) -> None:
    running = watched(folder)
    (folder / "policy.yaml").unlink()
    assert let_in(edited(running), ASKED) == OPEN
    assert not running.state.errors


def test_a_policy_that_is_moved_and_broken_at_once_is_not_deleted(folder: Path) -> None:
    running = watched(folder)
    (folder / "policy.yaml").unlink()
    (folder / "policies.yaml").write_text(DENY.replace("DENY", "DNEY"))
    assert let_in(edited(running), ASKED) == GUARDED
    (folder / "policies.yaml").write_text(DENY.replace("DENY", "DENNY"))
    assert let_in(edited(running), ASKED) == GUARDED
    (folder / "policies.yaml").write_text(DENY.replace("/admin", "/"))
    assert let_in(edited(running), ASKED) == [False, True]
    (folder / "policies.yaml").unlink()
    assert let_in(edited(running), ASKED) == OPEN


def test_config_maps_as_kubernetes_mounts_them_are_read_and_followed(tmp_path: Path) -> None:
    def mount(version: str, **files: str) -> None:
        place = tmp_path / f"..{version}"
        for name, text in files.items():
            path = place / name.replace("__", "/").replace("_yaml", ".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "..data_tmp").symlink_to(place.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    mount("1", web_yaml=service("web", PORT), sub__policy_yaml=DENY)
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    (tmp_path / "sub").symlink_to("..data/sub")
    running = watched(tmp_path)
    assert let_in(running.state, ASKED) == GUARDED
    assert not running.state.problems
    mount("2", web_yaml=service("web", PORT), sub__policy_yaml=DENY.replace("/admin", "/"))
    assert let_in(edited(running), ASKED) == [False, True]
    assert not running.state.problems


def test_a_link_to_a_folder_above_is_read_once(folder: Path) -> None:
    (folder / "again").symlink_to(".")
    assert not load(folder).problems


def test_an_edit_from_the_future_is_taken(folder: Path) -> None:
    running = Folder(folder, settle_seconds=0.01)
    running.read()
    (folder / "policy.yaml").write_text(DENY.replace("/admin", "/"))
    os.utime(folder / "policy.yaml", (4e9, 4e9))
    while not running.read():
        pass
    assert let_in(running.state, ASKED) == [False, True]


# One broken file keeps its own last good state, and only that.

BROKEN = {
    "not YAML": "spec: {",
    "a policy that is not known": DENY.replace("paths", "path"),
    "a client's rule": virtual_service("web", "[{match: [{uri: {prefx: /}}], directResponse: {status: 403}}]"),
    "a host twice": service("web", 1).partition("---")[0],
    "a policy twice": DENY.replace("/admin", "/other"),
    "a regular expression": virtual_service(
        "web", "[{match: [{uri: {regex: '('}}], route: [{destination: {host: web}}]}]"
    ),
    "an xDS resource": '"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: c\nconnect_timeout: -1s',
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", ["a.yaml", "z.yaml"])
def test_good_edits_do_not_wait_for_a_broken_file(folder: Path, name: str, broken: str) -> None:
    running = watched(folder)
    (folder / name).write_text(BROKEN[broken])
    assert let_in(edited(running), ASKED) == GUARDED
    assert running.state.errors
    assert has_routes(running.state)
    (folder / "policy.yaml").write_text(DENY.replace("/admin", "/"))
    assert let_in(edited(running), ASKED) == [False, True]
    (folder / "more.yaml").write_text(service("more", 1))
    assert (ResourceType.LISTENER, "more.default.svc.cluster.local:80") in edited(running).grpc
    (folder / name).unlink()
    assert let_in(edited(running), ASKED) == [False, True]
    assert not running.state.errors


_DEEP = "a: &a0 [x]\n" + "".join(f"b{one}: &a{one} [{'[' * 60}*a{one - 1}{']' * 60}]\n" for one in range(1, 90))
# Numbers that no field takes, and nesting that only aliases make.
TOO_LARGE = {
    "a timeout": virtual_service("web", f"[{{timeout: {'9' * 30}h, route: [{{destination: {{host: web}}}}]}}]"),
    "a timeout of any length": virtual_service(
        "web", f"[{{timeout: {'9' * 400}s, route: [{{destination: {{host: web}}}}]}}]"
    ),
    "a timeout that is a number": virtual_service(
        "web", f"[{{timeout: 0x{'f' * 5000}, route: [{{destination: {{host: web}}}}]}}]"
    ),
    "a share": virtual_service(
        "web",
        f"[{{fault: {{abort: {{httpStatus: 500, percentage: {{value: {'9' * 400}}}}}}},"
        " route: [{destination: {host: web}}]}]",
    ),
    "no number": virtual_service(
        "web",
        "[{fault: {abort: {httpStatus: 500, percentage: {value: .nan}}}, route: [{destination: {host: web}}]}]",
    ),
    "a port": service("more", 1).replace("port: 80", f"port: 0x{'f' * 5000}"),
    "aliases in aliases": f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata:\n  x: 1\n{_DEEP}",
    "a number of xDS": '"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: c\nmetadata:'
    f" {{filter_metadata: {{a: {{b: {'9' * 400}}}}}}}",
}


@pytest.mark.parametrize("large", TOO_LARGE)
def test_a_value_that_nothing_takes_is_a_problem_of_its_file_alone(folder: Path, large: str) -> None:
    running = watched(folder)
    (folder / "a.yaml").write_text(TOO_LARGE[large])
    assert let_in(edited(running), ASKED) == GUARDED
    assert any("a.yaml" in text for text in running.state.errors), running.state.errors
    assert all(len(text) < 2000 for text in running.state.errors)
    assert load(folder).errors
    (folder / "policy.yaml").write_text(DENY.replace("/admin", "/"))
    assert let_in(edited(running), ASKED) == [False, True]


PROVIDER = """apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: ask, envoyExtAuthzHttp: {service: ask.default.svc.cluster.local, port: 80, MORE}}
"""


@pytest.mark.parametrize(
    "more", [f"timeout: {'9' * 30}h", "statusOnError: '99999999999'", f"statusOnError: '{'9' * 5000}'"]
)
def test_what_a_server_could_not_be_told_is_a_problem_when_it_is_read(folder: Path, more: str) -> None:
    (folder / "mesh.yaml").write_text(PROVIDER.replace("MORE", more))
    assert any("mesh" in text for text in load(folder).errors)
    (folder / "mesh.yaml").write_text(PROVIDER.replace("MORE", "timeout: 1s, statusOnError: '503'"))
    assert not load(folder).errors


@pytest.mark.parametrize("port", ["99999999999", "9" * 5000, "70000", "0", "\u0663", "", "-1"])
def test_a_name_with_no_port_names_no_inbound_listener(folder: Path, port: str) -> None:
    state = load(folder)
    assert state.inbound(f"{INBOUND_PREFIX}0.0.0.0:{port}") is None
    assert state.inbound(f"{INBOUND_PREFIX}0.0.0.0:{PORT}") is not None


def test_an_edit_that_changes_a_values_type_only_is_an_edit(folder: Path) -> None:
    """To Python `1 == True`, and what is closed for the one would not open for the other."""
    keys = json.dumps(ISSUERS["one"])
    jwt = (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: j}\n"
        f"spec: {{jwtRules: [{{issuer: one, jwks: '{keys}', forwardOriginalToken: 1}}]}}\n"
    )
    (folder / "jwt.yaml").write_text(jwt)
    running = watched(folder)
    assert running.state.world.security.broken
    (folder / "jwt.yaml").write_text(jwt.replace("Token: 1}", "Token: true}"))
    assert not edited(running).errors
    assert not running.state.world.security.broken
    (folder / "jwt.yaml").write_text(jwt)
    assert any("forwardOriginalToken" in text for text in edited(running).errors)
    assert not running.state.world.security.broken


def test_a_file_that_was_partly_wrong_gets_no_worse(folder: Path) -> None:
    wrong, good = service("c", 1).replace("port: 80", "port: x"), service("b", 1)
    (folder / "both.yaml").write_text(good + "---\n" + wrong)
    running = watched(folder)
    name = (ResourceType.LISTENER, "b.default.svc.cluster.local:80")
    assert name in running.state.grpc
    (folder / "both.yaml").write_text(good.replace("port: 80", "port: y") + "---\n" + wrong)
    assert name in edited(running).grpc
    (folder / "both.yaml").write_text(good)
    assert name in edited(running).grpc
    assert not running.state.errors


def test_a_broken_edit_keeps_every_document_of_its_file(folder: Path) -> None:
    good = service("b", 1) + "---\n" + DENY.replace("admins", "others").replace("/admin", "/")
    (folder / "both.yaml").write_text(good)
    running = watched(folder)
    (folder / "both.yaml").write_text(good.replace("port: 80", "port: 81").replace("rules:", "rulez:"))
    state = edited(running)
    assert let_in(state, ASKED) == CLOSED
    assert (ResourceType.LISTENER, "b.default.svc.cluster.local:80") in state.grpc
    assert (ResourceType.LISTENER, "b.default.svc.cluster.local:81") not in state.grpc


def test_edits_that_need_each_other_are_taken_beside_a_broken_one(folder: Path) -> None:
    running = watched(folder)
    (folder / "bad.yaml").write_text("spec: {")
    (folder / "a.yaml").write_text(service("web", PORT))  # Moved here from web.yaml.
    (folder / "web.yaml").write_text(service("more", 1))
    (folder / "worse.yaml").write_text(service("web", PORT))
    state = edited(running)
    assert has_routes(state)
    assert (ResourceType.LISTENER, "more.default.svc.cluster.local:80") in state.grpc
    assert any("worse.yaml" in text for text in state.errors)


def test_what_was_closed_from_the_start_stays_closed_until_everything_can_be_read(folder: Path) -> None:
    (folder / "one.yaml").write_text("spec: {")
    running = watched(folder)
    (folder / "two.yaml").write_text("spec: {")
    assert let_in(edited(running), ASKED) == CLOSED
    (folder / "one.yaml").unlink()
    assert let_in(edited(running), ASKED) == CLOSED
    (folder / "two.yaml").unlink()
    assert let_in(edited(running), ASKED) == GUARDED


def test_a_folder_that_could_not_be_read_at_first_is_closed_by_what_is_broken_in_it(tmp_path: Path) -> None:
    running = watched(tmp_path / "mesh")
    assert let_in(running.state, ASKED) == CLOSED
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "web.yaml").write_text(service("web", PORT))
    (tmp_path / "mesh" / "policy.yaml").write_text("spec: {")
    assert let_in(edited(running), ASKED) == CLOSED
    (tmp_path / "mesh" / "policy.yaml").write_text(DENY)
    assert let_in(edited(running), ASKED) == GUARDED


def test_a_problem_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = watched(folder)
    (folder / "policy.yaml").write_text("spec: {")
    for _ in range(3):
        running.refresh()
    assert len([one for one in caplog.records if "policy.yaml" in one.getMessage()]) == 1


def test_a_name_of_a_file_stays_on_its_line(folder: Path) -> None:
    (folder / "a\nERROR forged.yaml").write_text("spec: {")
    assert all("\n" not in text for text in load(folder).errors)


# A document is closed, known, or not ours.

NEAR = [
    ("kind: AuthorisationPolicy", "did you mean security.istio.io/v1 or security.istio.io/v1beta1 AuthorizationPolicy"),
    ("kind: authorizationpolicy", "did you mean"),
    ("kind: AuthorizationPolicies", "did you mean"),
    ("kind: PeerAuthentification", "did you mean security.istio.io/v1 or security.istio.io/v1beta1 PeerAuthentication"),
    ("kind: Policy", "known are"),
    ("apiVersion: security.istio.io/v1beta2", "did you mean"),
    ("apiVersion: security.istio.io/v1alpha1", "did you mean"),
    ("apiVersion: security.istio.io", "did you mean"),
    ("apiVersion: securty.istio.io/v1", "did you mean"),
    ("apiVersion: networking.istio.io/v1", "did you mean"),
    ("apiVersion: rbac.istio.io/v1alpha1", "did you mean"),
    ("apiVersion: v1", "did you mean"),
    ("apiVersion:", "no apiVersion AuthorizationPolicy is not known"),
    ("", "no apiVersion AuthorizationPolicy is not known"),
    ("kind:", "kind: must be set"),
    ("kind: [AuthorizationPolicy]", "kind: must be set"),
    ("metadata: {name: x, namepsace: shop}", "namepsace: is not known; did you mean 'namespace'"),
    ("metadata: {name: x, namespace: }", "namespace"),
    ("metadata: {name: x, namespace: 'shop '}", "namespace"),
    ("metadata: {}", "name: must be set"),
    ("spec:", "spec: must be set"),
]


@pytest.mark.parametrize(("line", "words"), NEAR)
def test_what_is_nearly_a_policy_lets_nobody_in(folder: Path, line: str, words: str) -> None:
    field = line.partition(":")[0] or "apiVersion"
    lines = [line if one.startswith(f"{field}:") else one for one in DENY.splitlines()]
    (folder / "policy.yaml").write_text("\n".join(lines) + "\n")
    state = load(folder)
    assert let_in(state, ASKED) == CLOSED
    assert any(words in text for text in state.errors), state.errors


INSIDE = [
    "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nspec:\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports: []\n",
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: s}\nspec:\n  replicas: 1\n",
    "values:\n",
    "spec:\n",
]


@pytest.mark.parametrize("before", INSIDE)
def test_a_policy_that_is_indented_into_another_document_lets_nobody_in(folder: Path, before: str) -> None:
    (folder / "policy.yaml").write_text(before + "".join(f"  {line}\n" for line in DENY.splitlines()))
    assert let_in(load(folder), ASKED) == CLOSED


@pytest.mark.parametrize("lines", range(1, 4))
def test_a_policy_that_lost_its_first_lines_lets_nobody_in(folder: Path, lines: int) -> None:
    (folder / "policy.yaml").write_text("\n".join(DENY.splitlines()[lines:]) + "\n")
    assert let_in(load(folder), ASKED) == CLOSED


OTHERS = {
    "kustomization": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [web.yaml]\n",
    "kustomization without a kind": "namespace: shop\nresources: [web.yaml]\n",
    "operator": "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: default}\n",
    "chart": "apiVersion: v2\nname: shop\nversion: 1.0.0\ntype: application\n",
    "values": "replicas: 2\nimage: {tag: v1}\nservice: {port: 80}\nselector: {}\npodLabels:\n",
    "values with switches": "on: [push]\n1: one\ntime: 12:30\ndate: 2026-01-01\n",
    "compose file": "services: {web: {image: web, ports: ['80:80']}}\nversion: '3'\n",
    "package": '{"name": "web", "version": "1.0.0", "scripts": {"test": "true"}}',
    "playbook": "- hosts: all\n  tasks: [{name: one, debug: {msg: hi}}]\n",
    "Linkerd's policy": "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n"
    "spec: {}\n",
    "Knative's service": "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec: {}\n",
    "deployment": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"
    "spec: {template: {metadata: {}, spec: {}}}\n",
    "kubeconfig": "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\n",
    "gateway": "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {}\n",
    "owned": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, ownerReferences: [{apiVersion: security.istio.io/v1,"
    " kind: AuthorizationPolicy, name: admins}]}\n",
    "a policy of gateways": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: g}\n"
    "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], rules: []}\n",
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_not_ours_is_left_out_with_a_warning(folder: Path, other: str) -> None:
    (folder / "other.yaml").write_text(OTHERS[other])
    state = load(folder)
    assert let_in(state, ASKED) == GUARDED
    assert not state.errors
    assert any("other.yaml" in problem.text for problem in state.problems)


def test_a_misspelt_kind_that_is_no_policy_is_an_error_and_closes_nothing(folder: Path) -> None:
    (folder / "rule.yaml").write_text(
        destination_rule("web", "subsets: []").replace("DestinationRule", "DestinationRul")
    )
    state = load(folder)
    assert let_in(state, ASKED) == GUARDED
    assert any("did you mean networking.istio.io/v1" in text and "DestinationRule" in text for text in state.errors)


MESH = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    "data: {mesh: 'rootNamespace: r'}\n"
)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("rootNamespace: r", "rootNamepsace: r"),
        ("rootNamespace: r", "rootNamespace: [r]"),
        ("rootNamespace: r", "rootNamespace: r, b"),
        ("rootNamespace: r", "pathNormalization: {normalisation: NONE}"),
        ("rootNamespace: r", "pathNormalization: {normalization: SOME}"),
        ("'rootNamespace: r'", "'a: [1'"),
        ("{mesh:", "{mehs:"),
        ("data:", "dta:"),
        ("name: istio,", "name: istoi,"),
        ("ConfigMap", "ConfigMpa"),
    ],
)
def test_a_mesh_config_that_cannot_be_read_lets_nobody_in(folder: Path, good: str, bad: str) -> None:
    (folder / "policy.yaml").write_text(DENY.replace("name: admins", "name: admins, namespace: r"))
    (folder / "mesh.yaml").write_text(MESH)
    assert let_in(load(folder), ASKED) == GUARDED
    assert good in MESH
    (folder / "mesh.yaml").write_text(MESH.replace(good, bad))
    assert let_in(load(folder), ASKED) == CLOSED


def test_two_mesh_configs_let_nobody_in(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "other.yaml").write_text(MESH.replace("istio-system", "other"))
    assert let_in(load(folder), ASKED) == CLOSED


# A condition that is not known makes its rule match nothing.


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("[{uri: {prefx: /a}}]", "did you mean 'prefix'"),
        ("[{hedaers: {x: {exact: a}}}]", "did you mean 'headers'"),
        ("[{headers: {x: {exat: a}}}]", "did you mean 'exact'"),
        ("[{headers: {x: }}]", "must be an object"),
        ("[{headers: []}]", "must be a map"),
        ("[{headers: {on: {exact: a}}}]", "quote it"),
        ("[{uri: {exact: /a, prefix: /b}}]", "cannot stand beside"),
        ("[{uri: }]", "has no value"),
        ("[{uri: {prefix: /a}, when: x}]", "is not known"),
        ("", "has no value"),
    ],
)
def test_a_match_that_is_not_known_matches_nothing(folder: Path, match: str, words: str) -> None:
    first = f"{{name: first, match: {match}, directResponse: {{status: 403}}}}"
    rest = "{name: rest, route: [{destination: {host: web}}]}"
    (folder / "routes.yaml").write_text(virtual_service("web", f"[{first}, {rest}]"))
    check_rest_only(load(folder), words)


@pytest.mark.parametrize("field", ["mtach: [{uri: {prefix: /a}}]", "uri: {prefix: /a}", "headers: {x: {exact: a}}"])
def test_a_condition_beside_its_match_is_no_rule_without_one(folder: Path, field: str) -> None:
    first = f"{{name: first, {field}, directResponse: {{status: 403}}}}"
    rest = "{name: rest, route: [{destination: {host: web}}]}"
    (folder / "routes.yaml").write_text(virtual_service("web", f"[{first}, {rest}]"))
    check_rest_only(load(folder), "is not known")


def check_rest_only(state: FolderState, words: str) -> None:

    assert any(words in text for text in state.errors), state.errors
    routes = decode(
        *next((k, v) for (k, n), v in state.grpc.items() if n == f"outbound|80||{HOST}" and "ROUTE" in k.name)
    )
    assert [route.name for host in routes.virtual_hosts for route in host.routes] == ["rest"]  # type: ignore[union-attr]
    assert let_in(state, ASKED) == GUARDED


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (destination_rule("web", "subsets: [{name: a, labels: {v: a}}]"), ("labels", "lables")),
        (destination_rule("web", "trafficPolicy: {tls: {mode: SIMPLE}}"), ("mode", "mod")),
        (destination_rule("web", "workloadSelector: {matchLabels: {v: a}}"), ("matchLabels", "matchLables")),
        (service("a", 1), ("selector", "selectors")),
        (service("a", 1), ("labels", "lables")),
        (service("a", 1), ("{name: a}", "{name: a, lables: {}}")),
    ],
)
def test_other_conditions_that_are_not_known_are_errors(folder: Path, good: str, bad: tuple[str, str]) -> None:
    (folder / "more.yaml").write_text(good.removeprefix("---\n"))
    assert not load(folder).errors
    (folder / "more.yaml").write_text(good.removeprefix("---\n").replace(*bad))
    state = load(folder)
    assert state.errors
    assert let_in(state, ASKED) == GUARDED


@pytest.mark.parametrize("created", [("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), ("", "")])
@pytest.mark.parametrize("first", ["a.yaml", "z.yaml"])
def test_of_two_modes_of_a_namespace_the_older_holds(folder: Path, first: str, created: tuple[str, str]) -> None:
    for file, name, mode, when in (
        (first, "z" if created[0] else "one", "STRICT", created[0]),
        ("m.yaml", "two", "PERMISSIVE", created[1]),
    ):
        stamp = f", creationTimestamp: {when}" if when else ""
        (folder / file).write_text(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
            f"metadata: {{name: {name}{stamp}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    state = load(folder)
    assert not state.errors
    assert let_in(state, ASKED) == CLOSED
