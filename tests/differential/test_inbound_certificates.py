"""What a peer's certificate means to policy and to the application: the real Envoy and `mesh.serve`."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from meshsdk.identities import FileIdentity

from ..certificates import SpiffeCa, spiffe, write_identity
from .generate_inbound import condition
from .inbound_subjects import SERVER_SUBJECTS, ServerSubject, running_server

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
INPUTS = "type.googleapis.com/envoy.extensions.matching.common_inputs"

# Names in certificates of clients; None shows none.
PEERS: dict[str, dict[str, Any] | None] = {
    "uri": {"uris": [spiffe("client")]},
    "two uris": {"uris": [spiffe("client"), "https://client.example"]},
    "dns": {"uris": [], "dns": ("client.example", "*.wild.example")},
    "uri and dns": {"uris": [spiffe("client")], "dns": ("client.example",)},
    "no certificate": None,
}


@pytest.fixture(autouse=True)
def _quiet_audit() -> Iterator[None]:
    """Denials are what these tests are made of."""
    logging.getLogger("meshsdk.audit").disabled = True
    yield
    logging.getLogger("meshsdk.audit").disabled = False


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the server's identity and of each client's."""
    folder, ca = tmp_path_factory.mktemp("certificates"), SpiffeCa()
    made = {"server": folder / "server"}
    write_identity(made["server"], ca.issue(spiffe("server"), dns=("localhost",)), ca.pem)
    for name, given in PEERS.items():
        if given is not None:
            made[name] = folder / name.replace(" ", "-")
            write_identity(made[name], ca.issue(*given["uris"], dns=given.get("dns", ())), ca.pem)
    return made


def secured(listener: dict[str, Any], place: Path) -> dict[str, Any]:
    """The listener with mutual TLS that a client need not take part in."""
    files = {
        "certificate_chain": {"filename": str(place / "cert.pem")},
        "private_key": {"filename": str(place / "key.pem")},
    }
    context = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": False,
        "common_tls_context": {
            "tls_certificates": [files],
            "validation_context": {"trusted_ca": {"filename": str(place / "roots.pem")}},
        },
    }
    inspector = {
        "name": "tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        },
    }
    chains = [
        {**one, "transport_socket": {"name": "tls", "typed_config": context}} for one in listener["filter_chains"]
    ]
    return {**listener, "filter_chains": chains, "listener_filters": [inspector]}


@pytest.fixture
def both(tmp_path: Path, places: dict[str, Path], stack: ExitStack) -> Any:
    """Starts both sides with the same filters."""

    def start(*filters: dict[str, Any], route: dict[str, Any] | None = None, **manager: Any) -> list[ServerSubject]:
        started = []
        own = places["server"]
        for name in SERVER_SUBJECTS:
            (tmp_path / name).mkdir()
            subject = running_server(
                name,
                tmp_path / name,
                list(filters),
                routes=[{"match": {"prefix": "/"}, "route": {"cluster": "app"}, **(route or {})}],
                manager=manager,
                listener=partial(secured, place=own),
                identity=FileIdentity(own / "cert.pem", own / "key.pem", own / "roots.pem"),
            )
            started.append(stack.enter_context(subject))
        return started

    return start


def ask(subject: ServerSubject, place: Path | None, roots: Path, **headers: str) -> httpx.Response:
    """A request of a client with this identity, which asks for the server name `localhost`."""
    context = ssl.create_default_context(cafile=str(roots))
    if place is not None:
        context.load_cert_chain(place / "cert.pem", place / "key.pem")
    with httpx.Client(verify=context) as client:
        return client.get(f"https://localhost:{subject.port}/path", headers=headers)


def outcomes(subjects: list[ServerSubject], places: dict[str, Path], **headers: str) -> list[dict[str, Any]]:
    """What each side makes of each peer: the status, and what the application gets of certificates."""
    seen = []
    for subject in subjects:
        row = {}
        for name in PEERS:
            before = len(subject.received)
            answer = ask(subject, places.get(name), places["server"] / "roots.pem", **headers)
            got = [one.headers.get("x-forwarded-client-cert") for one in subject.received[before:]]
            row[name] = (answer.status_code, got)
        seen.append(row)
    return seen


@pytest.mark.parametrize("mode", ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"])
@pytest.mark.parametrize(
    "details", [{}, {"subject": True, "dns": True, "uri": True}, {"cert": True, "chain": True}], ids=str
)
def test_the_application_is_told_of_certificates_what_envoy_tells(
    both: Any, places: dict[str, Path], mode: str, details: dict[str, bool]
) -> None:
    subjects = both(forward_client_cert_details=mode, set_current_client_cert_details=details)
    forged = {"x-forwarded-client-cert": "By=spiffe://a;URI=spiffe://b"}
    for headers in ({}, forged):
        envoys, ours = outcomes(subjects, places, **headers)
        assert envoys == ours


def rbac(**rules: Any) -> dict[str, Any]:
    return {"name": "rbac", "typed_config": {"@type": f"{HTTP}.rbac.v3.RBAC", **rules}}


def by_principal(*principals: dict[str, Any], **more: Any) -> dict[str, Any]:
    policy = {"permissions": [{"any": True}], "principals": list(principals), **more}
    return rbac(rules={"policies": {"one": policy}})


def named(**match: Any) -> dict[str, Any]:
    return {"authenticated": {"principal_name": match}}


def proven(**config: Any) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config"
    return {"custom": {"name": "mtls", "typed_config": {"@type": kind, **config}}}


@pytest.mark.parametrize(
    "principal",
    [
        {"authenticated": {}},
        named(exact=spiffe("client")),
        named(prefix="spiffe://cluster.local/"),
        named(exact="client.example"),
        named(exact="a.wild.example"),
        named(suffix=".wild.example"),
        named(exact="https://client.example"),
        named(exact=""),
        named(safe_regex={"regex": ".*client.*"}),
        {"not_id": {"authenticated": {}}},
        proven(any_validated_client_certificate=True),
        proven(san_matcher={"san_type": "URI", "matcher": {"exact": spiffe("client")}}),
        proven(san_matcher={"san_type": "URI", "matcher": {"prefix": "https://"}}),
        proven(san_matcher={"san_type": "DNS", "matcher": {"exact": "client.example"}}),
        proven(san_matcher={"san_type": "DNS", "matcher": {"exact": "a.wild.example"}}),
        proven(san_matcher={"san_type": "EMAIL", "matcher": {"contains": "client"}}),
        {"not_id": proven(any_validated_client_certificate=True)},
    ],
    ids=str,
)
def test_principals_are_the_names_that_envoy_takes_for_them(
    both: Any, places: dict[str, Path], principal: dict[str, Any]
) -> None:
    envoys, ours = outcomes(both(by_principal(principal)), places)
    assert {name: status for name, (status, _) in envoys.items()} == {
        name: status for name, (status, _) in ours.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "connection.mtls",
        "request.protocol == 'HTTP/1.1'",
        f"connection.uri_san_peer_certificate == '{spiffe('client')}'",
        "connection.dns_san_peer_certificate == 'client.example'",
        "connection.subject_peer_certificate == ''",
        "connection.requested_server_name == 'localhost'",
        f"connection.uri_san_local_certificate == '{spiffe('server')}'",
        "size(connection.sha256_peer_certificate_digest) == 64",
        "source.address.startsWith('127.0.0.1:')",
        "source.port > 1024",
        "destination.address.startsWith('127.0.0.1:')",
        "request.scheme == 'https'",
    ],
)
def test_cel_sees_of_a_connection_what_envoys_does(both: Any, places: dict[str, Path], text: str) -> None:
    envoys, ours = outcomes(both(by_principal({"any": True}, condition=condition(text))), places)
    assert envoys == ours


@pytest.mark.parametrize(
    ("looked_at", "match"),
    [
        ("ssl.v3.UriSanInput", {"exact": spiffe("client")}),
        ("ssl.v3.UriSanInput", {"contains": "client"}),
        ("ssl.v3.DnsSanInput", {"contains": "wild"}),
        ("ssl.v3.DnsSanInput", {"exact": "client.example"}),
        ("ssl.v3.SubjectInput", {"prefix": "CN"}),
        ("network.v3.ServerNameInput", {"exact": "localhost"}),
        ("network.v3.SourceIPInput", {"exact": "127.0.0.1"}),
        ("network.v3.DirectSourceIPInput", {"prefix": "127."}),
        ("network.v3.DestinationIPInput", {"exact": "127.0.0.1"}),
        ("network.v3.DestinationPortInput", {"safe_regex": {"google_re2": {}, "regex": "[0-9]+"}}),
        ("network.v3.SourcePortInput", {"safe_regex": {"google_re2": {}, "regex": "[0-9]+"}}),
    ],
    ids=str,
)
def test_matchers_see_of_a_connection_what_envoys_do(
    both: Any, places: dict[str, Path], looked_at: str, match: dict[str, Any]
) -> None:
    predicate = {
        "single_predicate": {
            "input": {"name": "input", "typed_config": {"@type": f"{INPUTS}.{looked_at}"}},
            "value_match": match,
        }
    }
    action = {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "end", "action": "ALLOW"}
    then = {"action": {"name": "action", "typed_config": action}}
    tree = {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": then}]}}
    envoys, ours = outcomes(both(rbac(matcher=tree)), places)
    assert envoys == ours


OPERATORS = [
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END(%Y %s)",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)",
    "METADATA(DYNAMIC:envoy.filters.http.rbac:shadow_effective_policy_id)",
    "DYNAMIC_METADATA(envoy.filters.http.rbac:in_enforced_engine_result)",
    "DYNAMIC_METADATA(envoy.filters.http.rbac:in_enforced_effective_policy_id)",
    "METADATA(ROUTE:of.route:key)",
]


@pytest.mark.parametrize("xff", [{}, {"x-forwarded-for": "10.1.2.3, 10.4.5.6"}], ids=["", "forwarded"])
def test_header_changes_know_of_a_connection_what_envoys_do(both: Any, places: dict[str, Path], xff: Any) -> None:
    changes = [
        {"append": {"header": {"key": f"x-op-{number}", "value": f"<%{operator}%>"}}}
        for number, operator in enumerate(OPERATORS)
    ]
    mutation = {"@type": f"{HTTP}.header_mutation.v3.HeaderMutation", "mutations": {"request_mutations": changes}}
    shadow = {"action": "DENY", "policies": {"one": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}
    subjects = both(rbac(shadow_rules=shadow), {"name": "mutation", "typed_config": mutation}, xff_num_trusted_hops=1)
    for name in PEERS:
        told = []
        for subject in subjects:
            assert ask(subject, places.get(name), places["server"] / "roots.pem", **xff).status_code == 200
            headers = subject.received[-1].headers
            told.append(
                {
                    operator: re.sub(r"\d{4,5}>", "PORT>", value)
                    if "ADDRESS" in operator or "_PORT" in operator
                    else value
                    for number, operator in enumerate(OPERATORS)
                    for value in [headers.get(f"x-op-{number}")]
                }
            )
        assert told[0] == told[1], name


@pytest.mark.parametrize(
    "asked",
    [
        {"presented": True},
        {"presented": False},
        {"validated": True},
        {"validated": False},
        {"presented": True, "validated": True},
        {"presented": True, "validated": False},
    ],
    ids=str,
)
def test_routes_are_for_requests_with_a_certificate_or_without_as_in_envoy(
    both: Any, places: dict[str, Path], asked: dict[str, bool]
) -> None:
    envoys, ours = outcomes(both(route={"match": {"prefix": "/", "tls_context": asked}}), places)
    assert envoys == ours
