"""`ssl.SSLContext`s of clients and servers."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import Struct, field

from ..errors import ResourceError
from ..resources import PemSource, TlsIdentity, TlsProtocol, TlsTrust, UpstreamTls
from ..resources.tls import DownstreamTls, file_stamp
from .trust_domains import PeerChain

__all__ = ["TlsClientContext", "make_client_context", "make_server_context", "server_name_of", "tell_of_broken_ends"]

_SERVER_NAME = "meshsdk_server_name"

_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1_1": ssl.TLSVersion.TLSv1_1,
    "TLSv1_2": ssl.TLSVersion.TLSv1_2,
    "TLSv1_3": ssl.TLSVersion.TLSv1_3,
}


class TlsClientContext(Struct, eq=False):
    """What a connection needs to start TLS, and to check whom it reached.

    Attributes:
        context: For the handshake; it always verifies the chain.
        server_name: SNI to send; empty sends none.
        auto_sni: Send the endpoint's hostname instead.
        trust: For `check_peer` after the handshake; None where the chain and the host name are all that is asked.
        is_current: Certificates have not changed since. Connections of an older one are used up, and not used again.
        sessions: By endpoint and server name, to be resumed: what is known of the peer comes with it.
    """

    context: ssl.SSLContext
    server_name: str = ""
    auto_sni: bool = False
    trust: TlsTrust | None = None
    is_current: bool = True
    sessions: dict[tuple[Any, str | None], tuple[ssl.SSLSession, PeerChain]] = field(default_factory=dict)


def make_client_context(tls: UpstreamTls, alpn: Sequence[str]) -> TlsClientContext:
    """The context of a cluster.

    Args:
        tls: Its settings.
        alpn: Protocols to offer.

    Raises:
        ResourceError: A certificate or key cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The name in the certificate is checked by SAN matchers, or by OpenSSL where match_sni asks for it.
    context.check_hostname = tls.match_sni
    context.verify_mode = ssl.CERT_REQUIRED
    _set_protocol(context, tls.protocol)
    context.set_alpn_protocols(list(alpn))
    _load_trust(context, tls.trust)
    if tls.identity is not None:
        _load_identity(context, tls.identity)
    trust = tls.trust
    asks_more = bool(trust.san_matchers or trust.spki_hashes or trust.certificate_hashes or trust.bundles is not None)
    return TlsClientContext(context, tls.sni, tls.auto_sni, trust if asks_more else None)


def make_server_context(
    tls: DownstreamTls, alpn: Sequence[str] = ("http/1.1",), *, resumes: bool = True
) -> ssl.SSLContext:
    """The context of a server's connections.

    Args:
        tls: Its settings.
        alpn: Protocols to take where the settings name none.
        resumes: Whether clients may resume sessions; such a handshake shows no chain.

    Raises:
        ResourceError: A certificate or key cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_server_context(context, tls, alpn)
    if not resumes or (tls.trust is not None and _bundles(tls.trust)):
        # A resumed handshake shows no chain, and so no root of a trust domain, nor anything to look at again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    context.sni_callback = _remember_server_name
    return context


def server_name_of(secured: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The server name that a peer asked for in its TLS hello; empty where it asked for none."""
    return str(getattr(secured, _SERVER_NAME, ""))


def _remember_server_name(secured: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
    """Python's ssl tells it here and nowhere else."""
    setattr(secured, _SERVER_NAME, name or "")


def load_server_context(context: ssl.SSLContext, tls: DownstreamTls, alpn: Sequence[str]) -> None:
    """Give a server's context its settings.

    Raises:
        ResourceError: A certificate or key cannot be read or used.
    """
    _set_protocol(context, tls.protocol)
    context.set_alpn_protocols(list(tls.protocol.alpn or alpn))
    if tls.trust is not None:
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
        _load_trust(context, tls.trust)
    _load_identity(context, tls.identity)


def tell_of_broken_ends(context: ssl.SSLContext) -> None:
    """Have a connection that ends without close_notify told from one that ends properly (RFC 8446 section 6.1).

    Python before 3.11.4 has OpenSSL 3 take either for the end, and a response that was cut short would pass for whole.
    """
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def _set_protocol(context: ssl.SSLContext, protocol: TlsProtocol) -> None:
    tell_of_broken_ends(context)
    # Envoy offers TLS 1.2 and 1.3 unless told otherwise; older versions are never offered unasked.
    context.minimum_version = _VERSIONS.get(protocol.minimum_version, ssl.TLSVersion.TLSv1_2)
    if protocol.maximum_version:
        context.maximum_version = _VERSIONS[protocol.maximum_version]
    if protocol.ciphers:
        try:
            context.set_ciphers(":".join(protocol.ciphers))
        except ssl.SSLError as error:
            raise ResourceError("tls_params.cipher_suites", f"none of them is known here: {error}") from error


def _load_trust(context: ssl.SSLContext, trust: TlsTrust) -> None:
    bundles = _bundles(trust)
    if bundles:
        with _in_a_file(b"\n".join(bundles.values())) as path:
            context.load_verify_locations(cafile=path)
    elif trust.trusted_ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_pem(context, trust.trusted_ca, "validation_context.trusted_ca")
    if trust.crl is not None:
        _load_pem(context, trust.crl, "validation_context.crl")
        # Envoy: a chain whose issuer has no list in it is refused as well.
        flag = ssl.VERIFY_CRL_CHECK_LEAF if trust.crl_of_leaf_only else ssl.VERIFY_CRL_CHECK_CHAIN
        context.verify_flags |= flag


def system_roots_stamp() -> object:
    """What is another one when the roots of the system may have changed."""
    paths = ssl.get_default_verify_paths()
    stamps = []
    for path in (paths.cafile, paths.capath):
        try:
            stamps.append(file_stamp(path) if path else None)
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _bundles(trust: TlsTrust) -> Mapping[str, bytes]:
    try:
        return trust.bundles.read_bundles() if trust.bundles is not None else {}
    except OSError as error:
        raise ResourceError("validation_context", f"bundles cannot be had: {error}") from error


def _load_pem(context: ssl.SSLContext, source: PemSource, where: str) -> None:
    try:
        # By file, since text given as cadata may hold certificates only, and lists of revoked ones are none.
        with _in_a_file(source.read()) as path:
            context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise ResourceError(where, f"cannot be used: {error}") from error


def _load_identity(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    try:
        with _in_a_file(identity.certificate.read()) as chain, _in_a_file(identity.private_key.read()) as key:
            context.load_cert_chain(chain, key)
    except (OSError, ValueError) as error:
        raise ResourceError("tls_certificates", f"cannot be used: {error}") from error


@contextmanager
def _in_a_file(content: bytes) -> Iterator[str]:
    """A path with this content. Python's ssl takes keys from files only; on Linux this one never leaves memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("meshsdk", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    descriptor, path = tempfile.mkstemp(prefix="meshsdk-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)
