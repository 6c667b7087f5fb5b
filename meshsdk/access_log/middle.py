"""The part that Envoy's default format and Istio's have in common, made at once: most logs have one of the two."""

from __future__ import annotations

from .entry import Entry
from .header_operators import Getter
from .shown import Style

__all__ = ["COMMON_MIDDLE", "compile_middle"]

COMMON_MIDDLE = (
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"
    ' "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%"'
)


def compile_middle(style: Style) -> Getter:
    """The same as its operators one by one."""
    missing, show, known, text = style.missing, style.show, style.known, style.text

    def slowly(entry: Entry, name: str) -> str:
        found = entry.head.first_header(name)
        return missing if found is None else show(found.encode("latin-1"))

    def middle(entry: Entry) -> str:
        names, to_head = entry.names, entry.seconds_to_head
        if len(names) == len(entry.head.raw_headers):
            raw = names.get(b"x-forwarded-for")
            xff = missing if raw is None else known.get(raw) or show(raw)
            raw = names.get(b"user-agent")
            agent = missing if raw is None else known.get(raw) or show(raw)
            raw = names.get(b"x-request-id")
            # Of each request another one, so that none is worth remembering.
            request_id = missing if raw is None else text(raw.decode("latin-1"))
        else:
            xff, agent, request_id = (slowly(entry, one) for one in ("x-forwarded-for", "user-agent", "x-request-id"))
        took = missing if to_head is None else int(to_head * 1000)
        return f'{entry.received} {entry.sent} {int(entry.seconds * 1000)} {took} "{xff}" "{agent}" "{request_id}"'

    return middle
