"""Which names and values may let their bearer in, where no mark says so: of headers, parameters and fields."""

from __future__ import annotations

__all__ = ["is_sensitive", "is_telling"]

# Within a name, whose dashes and underscores do not count.
_SAYS_SECRET = (
    "auth cookie token secret passw passphrase passwd credential session sessid apikey accesskey privatekey signature"
    " jwt assertion hmac csrf xsrf saml bearer dpop ticket verifier oidc clientcert"
).split()
_IS_SECRET = frozenset("sig sid pass pwd pin otp code nonce".split())
_SCHEMES = ("bearer ", "basic ", "digest ", "negotiate ", "dpop ")


def is_sensitive(name: str) -> bool:
    """Whether a header, parameter or field of that name may let its bearer in."""
    plain = name.lower().replace("-", "").replace("_", "")
    if plain in (":authority", "authority"):
        return False  # Where a request goes.
    return plain in _IS_SECRET or plain.endswith("key") or any(word in plain for word in _SAYS_SECRET)


def is_telling(value: str) -> bool:
    """Whether a value looks like one that lets its bearer in, whatever it is called."""
    low = value.lower()
    return low.startswith(_SCHEMES) or (low.startswith("eyj") and low.count(".") >= 2) or "@" in low.partition("/")[2]
