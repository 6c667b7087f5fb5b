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
    missing, show, known = style.missing, style.show, style.known

    def header(entry: Entry, name: str) -> str:
        found = entry.head.first_header(name)
        return missing if found is None else show(found.encode("latin-1"))

    def middle(entry: Entry) -> str:
        to_head = entry.seconds_to_head
        took = missing if to_head is None else int(to_head * 1000)
        numbers = f"{entry.received} {entry.sent} {int(entry.seconds * 1000)} {took}"
        names = entry.names
        if len(names) != len(entry.head.raw_headers):
            xff, agent, request_id = (header(entry, one) for one in ("x-forwarded-for", "user-agent", "x-request-id"))
            return f'{numbers} "{xff}" "{agent}" "{request_id}"'
        raw_xff, raw_agent, raw_id = names.get(b"x-forwarded-for"), names.get(b"user-agent"), names.get(b"x-request-id")
        xff = missing if raw_xff is None else known.get(raw_xff) or show(raw_xff)
        agent = missing if raw_agent is None else known.get(raw_agent) or show(raw_agent)
        request_id = missing if raw_id is None else known.get(raw_id) or show(raw_id)
        return f'{numbers} "{xff}" "{agent}" "{request_id}"'

    return middle
