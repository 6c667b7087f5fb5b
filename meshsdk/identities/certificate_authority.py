"""A certificate authority of our own, for development: it signs what is sent to it, for whom it is told."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["CertificateAuthority"]

_LIFE = datetime.timedelta(hours=12)
_CA_LIFE = datetime.timedelta(days=365)
_SKEW = datetime.timedelta(minutes=1)


class CertificateAuthority:
    """Signs requests.

    Args:
        key: Its key.
        certificate: Its own certificate.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def make(cls) -> CertificateAuthority:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshsdk development CA")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(_usage(may_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, text: bytes) -> CertificateAuthority:
        """One that was written down by `dump`.

        Raises:
            ValueError: The text is no CA, or its time is over.
        """
        try:
            key = serialization.load_pem_private_key(text, password=None)
            certificate = x509.load_pem_x509_certificates(text)[0]
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")
        if not _is_fresh(certificate):
            raise ValueError("its time is over")
        return cls(key, certificate)

    def dump(self) -> bytes:
        """Key and certificate as PEM."""
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private + self.pem

    def sign(self, request: bytes, spiffe_id: str, life: datetime.timedelta = _LIFE) -> bytes:
        """A certificate for the key of a signing request, and for this SPIFFE ID whatever the request says.

        Raises:
            ValueError: The request does not parse, or is not signed by its key.
        """
        parsed = x509.load_pem_x509_csr(request)
        if not parsed.is_signature_valid:
            raise ValueError("the request is not signed by its key")
        now = datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(parsed.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(_usage(may_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def is_fresh(self) -> bool:
        """Whether it outlives what it signs now."""
        return _is_fresh(self._certificate)


def _is_fresh(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc >= datetime.datetime.now(datetime.UTC) + _LIFE


def _usage(*, may_sign: bool) -> x509.KeyUsage:
    """As istiod has it; OpenSSL's strict checks ask for it, which Python's own contexts switch on since 3.13."""
    return x509.KeyUsage(
        digital_signature=not may_sign,
        key_encipherment=not may_sign,
        key_cert_sign=may_sign,
        crl_sign=may_sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
