"""TLS of this process's servers, that rotates while they run."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..errors import IdentityError, ResourceError, UnsupportedFeatureError
from ..inbound import InboundPolicy
from ..resources import TlsTrust
from ..resources.tls import DownstreamTls
from ..security import Secrets, trust_stamp
from ..security.tls_context import load_server_context, make_server_context

if TYPE_CHECKING:
    from .inbound import Inbound

__all__ = ["RotatingContext", "ServerContexts", "tls_of_identity", "tls_of_policy"]


def tls_of_identity(secrets: Secrets, *, require_client_certificate: bool) -> DownstreamTls:
    """Mutual TLS with the process's own identity.

    Raises:
        ResourceError: It has none.
    """
    trust: TlsTrust = secrets.own_trust()
    return DownstreamTls(secrets.own_identity(), trust, require_client_certificate)


def tls_of_policy(policy: InboundPolicy | None, port: int) -> DownstreamTls:
    """The TLS settings of a port. Which protocols are offered is the server's to say, and makes no difference.

    Raises:
        ResourceError: It takes plaintext only, or has no policy.
        UnsupportedFeatureError: Its filter chains have different ones.
    """
    listener = policy.listener if policy is not None else None
    chains = listener.chains_of(port) if listener is not None else ()
    found = {replace(one.tls, protocol=replace(one.tls.protocol, alpn=())) for one in chains if one.tls is not None}
    if len(found) > 1:
        raise UnsupportedFeatureError(
            f"listener {listener.name if listener else ''}: filter chains with different TLS settings on one port; give"
            " each a port of its own"
        )
    if not found:
        raise ResourceError("transport_socket", "the port takes plaintext only")
    return found.pop()


class RotatingContext(ssl.SSLContext):
    """A server's SSLContext whose every handshake uses the certificates and roots of that moment.

    It can be given wherever an SSLContext is taken; handshakes begin with `wrap_socket` or `wrap_bio`, and those go to
    a context that is made anew when the certificates have changed (Python's contexts cannot forget a root).

    Args:
        settings: Gives the settings of the moment.
        secrets: What names of certificates stand for.
        alpn: Protocols that the server speaks, whatever the settings name.
        federated: Peers of federated trust domains may come; who serves checks that their roots are their own domain's,
            and looks at peers by what their handshake has verified. Otherwise no session is resumed.

    Raises:
        ResourceError: The first certificates cannot be used.
    """

    _settings: Callable[[], DownstreamTls]
    _secrets: Secrets
    _alpn: Sequence[str]
    _stamps: tuple[object, ...]
    _inner: ssl.SSLContext
    _federated: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> RotatingContext:
        """See ssl.SSLContext."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(
        self,
        settings: Callable[[], DownstreamTls],
        secrets: Secrets,
        alpn: Sequence[str] = ("http/1.1",),
        *,
        federated: bool = False,
    ) -> None:
        self._federated = federated
        self._settings = settings
        self._secrets = secrets
        self._alpn = alpn
        self._stamps = ()
        tls = self._resolved()
        # What servers look at (verify_mode, ALPN) is what the first certificates say.
        load_server_context(self, tls, alpn)
        self._inner = self._current()

    def _resolved(self) -> DownstreamTls:
        tls = self._secrets.of_server(self._settings(), federated=self._federated)
        if tls.trust is not None and tls.trust.spiffe is not None and not self._federated:
            raise ResourceError(
                "custom_validator_config", "trust domains are told apart by mesh.serve and uvicorn's option only"
            )
        return replace(tls, protocol=replace(tls.protocol, alpn=tuple(self._alpn)))

    def _current(self) -> ssl.SSLContext:
        try:
            tls = self._resolved()
        except ResourceError:
            if not self._stamps:
                raise
            return self._inner
        try:
            own = (tls.identity.certificate.stamp(), tls.identity.private_key.stamp())
            stamps = (tls, *own, trust_stamp(tls.trust) if tls.trust is not None else None)
            if stamps != self._stamps:
                self._inner = make_server_context(tls, self._alpn, resumes=self._federated)
                self._stamps = stamps
        except (ResourceError, OSError):
            # In the middle of a change, or gone: the last good ones stay. There are none only in __init__.
            if not self._stamps:
                raise
        return self._inner

    def trust(self) -> TlsTrust | None:
        """What peers are held to now; None where none is asked for a certificate.

        Raises:
            ResourceError: A name stands for nothing.
        """
        return self._resolved().trust

    @property
    def generation(self) -> object:
        """Another one when certificates have changed."""
        self._current()
        return self._stamps

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See ssl.SSLContext."""
        return self._current().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        return self._current().wrap_bio(*args, **kwargs)


class ServerContexts:
    """The contexts that servers of somebody else's have: the same for the same arguments.

    Args:
        secrets: What names of certificates stand for.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._known: dict[tuple[str, bool, tuple[str, ...]], RotatingContext] = {}

    def find(self, inbound: Inbound | None, require_client_certificate: bool, alpn: tuple[str, ...]) -> RotatingContext:
        """The context of a port; without one, of the process's own identity.

        Raises:
            IdentityError: The process has none, or its certificates cannot be had.
        """
        key = (inbound.name if inbound is not None else "", require_client_certificate, alpn)
        known = self._known.get(key)
        if known is not None:
            return known
        try:
            made = RotatingContext(self._settings(inbound, require_client_certificate), self._secrets, alpn)
        except ResourceError as error:
            raise IdentityError(str(error)) from error
        return self._known.setdefault(key, made)

    def _settings(self, inbound: Inbound | None, require_client_certificate: bool) -> Callable[[], DownstreamTls]:
        if inbound is not None:
            inbound.wait_ready()
            return lambda: tls_of_policy(inbound.policy, inbound.port)
        tls = tls_of_identity(self._secrets, require_client_certificate=require_client_certificate)
        return lambda: tls
