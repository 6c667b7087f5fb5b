"""A certificate authority for development, shared by the processes of one user over one folder.

So that `Mesh(config="mesh/")` has working mutual TLS with no set-up: the first process makes the CA in a private folder
of the user's, named after the configuration's; the others find it there. It proves that two processes run under the
same user, and nothing more: this is not for production.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import IdentityError
from ..security import Credentials
from ..security.identity import check_credentials
from .renewal import RenewedIdentity
from .signing_request import make_signing_request

__all__ = ["CertificateAuthority", "DevelopmentIdentity", "private_file", "shared_authority"]

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
        key = serialization.load_pem_private_key(text, password=None)
        certificate = x509.load_pem_x509_certificates(text)[0]
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")
        if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + _LIFE:
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
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


class DevelopmentIdentity(RenewedIdentity):
    """An identity that the development CA of a configuration folder signs.

    Args:
        root: The configuration.
        spiffe_id: Whom to be.
    """

    def __init__(self, root: str | os.PathLike[str], spiffe_id: str) -> None:
        self._root = Path(root).resolve()
        self._spiffe_id = spiffe_id
        super().__init__(self._certify, "the development CA")

    def _certify(self) -> Credentials:
        try:
            authority = shared_authority(self._root)
            private, request = make_signing_request(self._spiffe_id)
            return check_credentials(authority.sign(request, self._spiffe_id), private, authority.pem)
        except (OSError, ValueError) as error:
            raise IdentityError(f"the development CA cannot be used: {error}") from error


def shared_authority(root: Path) -> CertificateAuthority:
    """The CA of a configuration: made by the first who asks.

    Raises:
        OSError, ValueError: The user's private folder cannot be used.
    """
    folder = _private_folder()
    path = folder / f"{_name_of(root)}.pem"
    with contextlib.suppress(OSError, ValueError):
        return CertificateAuthority.load(path.read_bytes())
    made = CertificateAuthority.make()
    fresh = folder / f"{path.name}.{os.getpid()}.{time.monotonic_ns()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(made.dump())
    try:
        # A link does not replace what another process has put there in the meantime.
        os.link(fresh, path)
    except FileExistsError:
        with contextlib.suppress(ValueError):
            return CertificateAuthority.load(path.read_bytes())
        os.replace(fresh, path)
        return made
    finally:
        fresh.unlink(missing_ok=True)
    return made


def private_file(root: Path, suffix: str, content: bytes) -> Path:
    """A file beside a configuration's CA, which only this user can read.

    Raises:
        OSError: The user's private folder cannot be used.
    """
    path = _private_folder() / f"{_name_of(root)}{suffix}"
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(fresh, path)
    return path


def _name_of(root: Path) -> str:
    return hashlib.sha256(str(root).encode()).hexdigest()[:32]


def _private_folder() -> Path:
    """A folder of this user's that nobody else can write or read.

    Raises:
        OSError: Somebody else has made it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"meshsdk-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(f"{folder} is not a private folder of this user")
    return folder
