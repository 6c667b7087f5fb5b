"""Which names and values may let their bearer in, where no mark says so: of headers, parameters and fields."""

from __future__ import annotations

import urllib.parse

__all__ = ["REDACTED", "is_sensitive", "is_telling", "shown_target", "shown_uri", "shown_value"]

REDACTED = "[redacted]"

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


def shown_value(name: str, value: str) -> str:
    """The value of a header or parameter, as it may be shown."""
    if is_sensitive(name) or is_telling(value):
        return REDACTED
    # A URL within.
    within = urllib.parse.unquote_plus(value)
    return REDACTED if "?" in within and shown_target(within) != within else value


def shown_target(target: str) -> str:
    """A path with its query, or a URL, without the values of parameters that are secret."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    parts = []
    for part in query.replace(";", "&").split("&"):
        name, equals, value = part.partition("=")
        shown = shown_value(urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value))
        parts.append(f"{name}={REDACTED}" if equals and shown == REDACTED else part)
    joined = "&".join(parts)
    return f"{path}?{joined if REDACTED in joined else query}"


def shown_uri(uri: str) -> str:
    """A URI without the user and password in it, and without the values of parameters that are secret."""
    scheme, mark, rest = uri.partition("://")
    before, slash, path = rest.partition("/")
    user, at, host = before.rpartition("@")
    return shown_target(f"{scheme}{mark}{REDACTED if user else ''}{at}{host}{slash}{path}" if mark else uri)
