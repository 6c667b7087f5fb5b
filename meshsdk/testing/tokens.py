"""An issuer of tokens, for tests of RequestAuthentication."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

__all__ = ["TokenIssuer"]

_KEY = "test"
_ALGORITHM = "ES256"


class TokenIssuer:
    """Signs JSON Web Tokens, and says by which keys they are known.

        issuer = TokenIssuer("https://issuer.test")
        control_plane.apply(issuer.request_authentication("tokens"))
        client.get("http://reviews:9080/", headers={"authorization": f"Bearer {issuer.token('jason')}"})

    Args:
        name: The `iss` of its tokens.

    Attributes:
        name: The same.
        jwks: Its public keys, as the text of a JSON Web Key Set.
    """

    def __init__(self, name: str = "https://issuer.test") -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        self.jwks = json.dumps({"keys": [{**public, "kid": _KEY, "alg": _ALGORITHM}]})

    def token(self, subject: str = "somebody", *, expires_in_seconds: float = 3600, **claims: Any) -> str:
        """A token of now.

        Args:
            subject: Its `sub`.
            expires_in_seconds: How long it is good; less than nothing is one that was.
            **claims: Others, such as `aud` or `groups`; `iss` makes it somebody else's in name.
        """
        now = int(time.time())
        known = {"iss": self.name, "sub": subject, "iat": now, "exp": now + int(expires_in_seconds)}
        return jwt.encode({**known, **claims}, self._key, algorithm=_ALGORITHM, headers={"kid": _KEY})

    def request_authentication(
        self, name: str = "tokens", *, namespace: str = "default", labels: dict[str, str] | None = None, **rule: Any
    ) -> dict[str, Any]:
        """A RequestAuthentication that takes its tokens.

        Args:
            name: Of the object.
            namespace: Of the object.
            labels: Of the workloads that it is for; None is all of the namespace.
            **rule: Other fields of Istio's JWTRule, such as `audiences` or `forwardOriginalToken`.
        """
        spec: dict[str, Any] = {"jwtRules": [{"issuer": self.name, "jwks": self.jwks, **rule}]}
        if labels:
            spec["selector"] = {"matchLabels": labels}
        return {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
