"""A cluster's TLS settings as grpc-core gets them: it compares what was asked for, or the cluster is refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from meshsdk.errors import ResourceError
from meshsdk.grpc.engine.tls import identity_source, roots_source, write_tls
from meshsdk.grpc.engine.tls_slots import CERTIFICATE, KEY, ROOTS
from meshsdk.resources import SanMatcher, StringMatcher, StringMatchKind, UpstreamTls
from meshsdk.resources.tls import SpiffeDomains, TlsFile, TlsIdentity, TlsProtocol, TlsTrust

NAME = StringMatcher(StringMatchKind.EXACT, "x.example")


def test_the_server_name_is_sent_and_not_compared() -> None:
    context = write_tls(UpstreamTls(sni="x.example"), "", "")
    assert context.sni == "x.example"
    assert not context.auto_host_sni
    assert not context.common_tls_context.validation_context.match_subject_alt_names


def test_the_server_name_may_be_the_endpoints() -> None:
    context = write_tls(UpstreamTls(auto_sni=True), "", "")
    assert context.auto_host_sni
    assert context.sni == ""


def test_the_server_name_that_was_sent_may_be_what_the_peer_must_have() -> None:
    context = write_tls(UpstreamTls(sni="x.example", match_sni=True), "", "")
    [matcher] = context.common_tls_context.validation_context.match_subject_alt_names
    assert matcher.exact == "x.example"


@pytest.mark.parametrize(
    "tls",
    [
        UpstreamTls(auto_sni=True, match_sni=True),
        UpstreamTls(sni="x.example", match_sni=True, trust=TlsTrust(san_matchers=(SanMatcher(None, NAME),))),
    ],
    ids=["no fixed name", "beside other names, any of which would do"],
)
def test_what_the_peer_must_have_besides_cannot_be_said(tls: UpstreamTls) -> None:
    with pytest.raises(ResourceError, match="auto_sni_san_validation"):
        write_tls(tls, "", "")


@pytest.mark.parametrize("roots", ["", "slot-2"])
@pytest.mark.parametrize("identity", ["", "slot-1"])
def test_identity_and_roots_come_from_providers(identity: str, roots: str) -> None:
    common = write_tls(UpstreamTls(), identity, roots).common_tls_context
    assert common.HasField("tls_certificate_provider_instance") is bool(identity)
    assert common.tls_certificate_provider_instance.instance_name == identity
    validation = common.validation_context
    assert validation.HasField("ca_certificate_provider_instance") is bool(roots)
    assert validation.ca_certificate_provider_instance.instance_name == roots
    assert validation.HasField("system_root_certs") is not bool(roots)


def test_what_goes_into_the_slots_is_the_clusters() -> None:
    certificate, key, ca = (TlsFile(path=name) for name in ("/c.pem", "/k.pem", "/ca.pem"))
    tls = UpstreamTls(identity=TlsIdentity(certificate, key), trust=TlsTrust(ca))
    assert identity_source(tls) == ((CERTIFICATE, certificate), (KEY, key))
    assert roots_source(tls) == ((ROOTS, ca),)
    assert identity_source(UpstreamTls()) is roots_source(UpstreamTls()) is None


@pytest.mark.parametrize("ignore_case", [False, True])
@pytest.mark.parametrize("kind", [one for one in StringMatchKind if one is not StringMatchKind.REGEX])
def test_names_are_compared_as_they_were_to_be(kind: StringMatchKind, ignore_case: bool) -> None:
    trust = TlsTrust(san_matchers=(SanMatcher(None, StringMatcher(kind, "x.example", ignore_case)),))
    [matcher] = write_tls(
        UpstreamTls(trust=trust), "", ""
    ).common_tls_context.validation_context.match_subject_alt_names
    assert matcher.WhichOneof("match_pattern") == kind.value
    assert getattr(matcher, kind.value) == "x.example"
    assert matcher.ignore_case is ignore_case


def test_names_by_regular_expression_are_compared_by_it() -> None:
    trust = TlsTrust(san_matchers=(SanMatcher(None, StringMatcher(StringMatchKind.REGEX, "x.*")),))
    [matcher] = write_tls(
        UpstreamTls(trust=trust), "", ""
    ).common_tls_context.validation_context.match_subject_alt_names
    assert matcher.safe_regex.regex == "x.*"


@pytest.mark.parametrize(
    ("kind", "how", "value"),
    [
        ("URI", "exact", "spiffe://a/b"),
        ("URI", "prefix", "spiffe://a/"),
        ("DNS", "exact", "x.example"),
        ("IP", "exact", "10.0.0.1"),
    ],
)
def test_names_of_one_kind_that_no_other_kind_can_have_are_compared(kind: str, how: str, value: str) -> None:
    trust = TlsTrust(san_matchers=(SanMatcher(kind, StringMatcher(StringMatchKind(how), value)),))
    [matcher] = write_tls(
        UpstreamTls(trust=trust), "", ""
    ).common_tls_context.validation_context.match_subject_alt_names
    assert getattr(matcher, how) == value


@pytest.mark.parametrize(
    ("kind", "how", "value"),
    [
        ("URI", "suffix", "://a/b"),
        ("URI", "contains", "://"),
        ("URI", "safe_regex", "spiffe://.*"),
        ("URI", "exact", "x.example"),
        ("DNS", "prefix", "x."),
        ("DNS", "suffix", ".example"),
        ("DNS", "exact", "10.0.0.1"),
        ("DNS", "exact", "spiffe://a/b"),
        ("DNS", "exact", "ann@x.example"),
        ("IP", "exact", "x.example"),
        ("EMAIL", "exact", "ann@x.example"),
    ],
)
def test_names_of_one_kind_that_another_kind_could_have_are_refused(kind: str, how: str, value: str) -> None:
    """grpc-core is blind to kinds, so a name of another kind would be taken for it."""
    trust = TlsTrust(san_matchers=(SanMatcher(kind, StringMatcher(StringMatchKind(how), value)),))
    with pytest.raises(ResourceError, match="cannot be told from other kinds"):
        write_tls(UpstreamTls(trust=trust), "", "")


@pytest.mark.parametrize(
    "protocol",
    [
        TlsProtocol(ciphers=("ECDHE-RSA-AES128-GCM-SHA256",)),
        TlsProtocol(minimum_version="TLSv1_3"),
        TlsProtocol(minimum_version="TLSv1"),
        TlsProtocol(maximum_version="TLSv1_2"),
    ],
    ids=["ciphers", "1.3 at least", "1.0 at least", "1.2 at most"],
)
def test_what_grpc_core_would_not_speak_by_is_refused(protocol: TlsProtocol) -> None:
    with pytest.raises(ResourceError, match="tls_params"):
        write_tls(UpstreamTls(protocol=protocol), "", "")


@pytest.mark.parametrize("protocol", [TlsProtocol(), TlsProtocol((), "TLSv1_2", "TLSv1_3"), TlsProtocol(("h2",))])
def test_what_grpc_core_speaks_in_any_case_may_be_asked_for(protocol: TlsProtocol) -> None:
    assert not write_tls(UpstreamTls(protocol=protocol), "", "").common_tls_context.HasField("tls_params")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spki_hashes", frozenset([b"x" * 32])),
        ("certificate_hashes", frozenset([b"x" * 32])),
        ("crl", TlsFile(inline=b"crl")),
        ("spiffe", SpiffeDomains((("a", TlsFile(inline=b"pem")),))),
    ],
)
def test_a_check_of_the_peer_that_grpc_core_does_not_make_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ResourceError, match=field):
        write_tls(UpstreamTls(trust=replace(TlsTrust(), **{field: value})), "", "")
