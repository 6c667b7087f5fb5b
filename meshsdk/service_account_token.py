"""A Kubernetes service account's token in its file: read, and looked into without being verified.

Whoever is shown a token verifies it. Here it is only asked what it says of itself: whom it is for, and until when.
Sources: gRFC A97 (what a client looks at); Kubernetes, serviceaccount/claims.go (the claim `kubernetes.io`).
"""

from __future__ import annotations

import base64
import datetime
import json
import os
from pathlib import Path
from typing import Any

from msgspec import Struct

__all__ = ["ServiceAccountToken", "read_token"]

_MAX_BYTES = 65_536


class ServiceAccountToken(Struct, frozen=True):
    """A token, and what it says of itself.

    Attributes:
        text: The token; it is a secret.
        expires_at: Seconds since the epoch.
        audiences: Whom it is for.
        namespace: Of the service account; empty where it does not say.
        account: The service account's name; empty where it does not say.
    """

    text: str
    expires_at: float
    audiences: tuple[str, ...]
    namespace: str
    account: str

    def __repr__(self) -> str:
        return f"ServiceAccountToken({self.summary})"

    @property
    def summary(self) -> str:
        """What it says of itself, for messages; not the token."""
        whose = f"{self.namespace}/{self.account}" if self.account else "nobody in particular"
        until = datetime.datetime.fromtimestamp(self.expires_at, datetime.UTC).isoformat(timespec="seconds")
        return f"of {whose}, for {', '.join(self.audiences) or 'no audience'}, good until {until}"


def read_token(path: str | os.PathLike[str]) -> ServiceAccountToken:
    """The token that a file holds now.

    Args:
        path: Kubernetes renews the file long before the token expires, so it is read whenever a token is needed.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no JWT that says when it expires. The message names the file, and holds nothing of it.
    """
    with Path(path).open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        text = content.decode("ascii").strip()
        _, claims, _ = text.split(".")
        found = json.loads(base64.b64decode(claims + "=" * (-len(claims) % 4), altchars=b"-_", validate=True))
        expires_at = float(found["exp"])
        datetime.datetime.fromtimestamp(expires_at, datetime.UTC)
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        # Without its cause: that would quote the token.
        raise ValueError(f"{os.fspath(path)} holds no JWT that says when it expires") from None
    namespace, account = _whose(found)
    return ServiceAccountToken(text, expires_at, _audiences(found.get("aud")), namespace, account)


def _audiences(claim: Any) -> tuple[str, ...]:
    return tuple(map(str, claim)) if isinstance(claim, list) else (str(claim),) if claim else ()


def _whose(claims: dict[str, Any]) -> tuple[str, str]:
    """Namespace and name of the service account, by the subject `system:serviceaccount:NAMESPACE:NAME`."""
    parts = str(claims.get("sub", "")).split(":")
    return (parts[2], parts[3]) if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"] else ("", "")
