"""What Connection says of other headers: those that it names are for the next hop only, and are taken away.

Sources: RFC 9110 section 7.6.1; Envoy, source/common/http/utility.cc (sanitizeConnectionHeader) and
source/common/http/http1/codec_impl.cc (upgrades to h2c are none).
"""

from __future__ import annotations

from ..routing import RequestHead

__all__ = ["take_away_nominated"]

# These name no header.
_OWN_OPTIONS = frozenset("close keep-alive upgrade http2-settings".split())
_USUAL = frozenset((b"close", b"keep-alive", b"Keep-Alive", b"Upgrade", b"upgrade", b"keep-alive, Upgrade"))
# Without them nobody would know whom a request came from.
_NEVER = frozenset("x-forwarded-for x-forwarded-host x-forwarded-proto".split())
_MAX_OPTIONS = 10
_MAX_TE_LENGTH = 256


def take_away_nominated(head: RequestHead) -> RequestHead | None:
    """The request without the headers that its Connection names; None where that names what must stay."""
    said = head.by_name().get(b"connection")
    if said is None or (said in _USUAL and not head.has_duplicates and b"upgrade" not in head.by_name()):
        return head
    value = (head.header("connection") or "").lower()
    options = [option.strip(" \t") for option in value.split(",") if option]
    if len(options) >= _MAX_OPTIONS:
        return None
    gone = {option.encode("latin-1") for option in options if option and option not in _OWN_OPTIONS}
    if not _NEVER.isdisjoint(options) or b"host" in gone or any(option[:1] == b":" for option in gone):
        return None
    gone.discard(b"connection")
    coding = head.header("te")
    if b"te" in gone and coding is not None:
        if len(coding) >= _MAX_TE_LENGTH:
            return None
        if "trailers" in [one.strip(" \t").lower() for one in coding.split(",")]:
            gone.discard(b"te")
    if "upgrade" in options and (head.header("upgrade") or "").lower() == "h2c":
        gone |= {b"upgrade", b"http2-settings"}
    if gone.isdisjoint(head.by_name()):
        return head
    return head.with_headers([header for header in head.raw_headers if header[0].lower() not in gone])
