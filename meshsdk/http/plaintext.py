"""What to say of a peer that breaks off where it is spoken to in plaintext: it may be one that takes mutual TLS only.

Nothing that such a peer sends says so: it resets the connection, or closes it (PeerAuthentication STRICT).
"""

from __future__ import annotations

from ..balancing import Endpoint
from .errors import ReadError, RemoteProtocolError, WriteError

__all__ = ["with_plaintext_advice"]

_BROKEN = (ReadError, RemoteProtocolError, WriteError)

# Istio's names of clusters of services.
_OF_ISTIO = "outbound|"
_LABEL = (
    "its pod or WorkloadEntry has not the label security.istio.io/tlsMode: istio, or its PeerAuthentication is DISABLE"
)


def with_plaintext_advice(error: Exception, endpoint: Endpoint) -> None:
    """Have the error of an attempt without a response say that plaintext was spoken, and why, where that may be why.

    Args:
        error: Its message goes on.
        endpoint: Whom the attempt was sent to.
    """
    config = endpoint.cluster.config
    if not isinstance(error, _BROKEN) or endpoint.cluster.advice is not None or config.tls_of(endpoint.config):
        return
    if not config.name.startswith(_OF_ISTIO):
        why = "no transport_socket is configured"
    elif config.tls_matches or config.auto_mutual:
        why = _LABEL
    else:
        why = f"{_LABEL}, and no DestinationRule says ISTIO_MUTUAL"
    error.args = (
        f"{error}; cluster {config.name} speaks plaintext to {endpoint.name} ({why}), which a peer that takes mutual"
        " TLS only breaks off like this",
    )
