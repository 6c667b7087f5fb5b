"""Who may ask: whoever sits at this machine, and no page of the web that their browser happens to show.

A browser sends a page's requests to any address, loopback too. So the Host must be a name of this machine, for a name
of the attacker's may resolve to it (DNS rebinding); and what comes from a page must come from this one (Origin,
Sec-Fetch-Site: W3C Fetch Metadata).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

__all__ = ["HEADERS", "refusal"]

# Nothing is loaded from elsewhere, nobody frames the page, and what it shows stays with it.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cache-Control", "no-cache, max-age=0"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)


def refusal(headers: Mapping[str, str], address: str, path: str = "/") -> str:
    """Why a request is refused; empty where it is not.

    Args:
        headers: By their names in lower case.
        address: That the page is served on.
        path: That is asked for.
    """
    host = headers.get("host", "")
    if not _is_own(_name_of(host), address):
        return f"the Host {host!r} is none of this machine's: ask for localhost"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"a page of {origin!r} may not ask this one"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        # A link that somebody follows, or a click on localhost of another port, may only open the page itself.
        is_opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return "" if is_opened and path == "/" else "another page may not ask this one"
    return ""


def _name_of(host: str) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    return name.strip("[]").lower()


def _is_own(name: str, address: str) -> bool:
    if name == "localhost" or name == address:
        return True
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return False
    # An address cannot be made to mean another one; who listens beyond loopback is asked by whichever it has.
    return found.is_loopback or not ipaddress.ip_address(address).is_loopback
