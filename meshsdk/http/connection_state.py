"""The life of one HTTP/1.1 connection, and whether it may serve another request (RFC 9112 section 9.3).

    request:   IDLE ──begin──► SENDING ──all sent──► SENT
                                  └────given up────► MUST_CLOSE
    response:  IDLE ──begin──► AWAITED ──head──► BODY ──end──► DONE
                 └─────────── stray, cut off, last ───────────► MUST_CLOSE

A request and its response are two lives: a peer may answer before it has the whole request. Only where both came to
their ends, and nothing more has come, is the connection clean: `may_serve_again`. MUST_CLOSE is left by nothing, so
whatever comes later cannot make a connection clean again. Everything that has a say in this is in these two tables;
readers and connections only tell what happened. What a table does not have is a fault of ours, and closes as well.
"""

from __future__ import annotations

__all__ = [
    "ALL_SENT",
    "CUT_OFF",
    "END",
    "GIVEN_UP",
    "HEAD",
    "LAST_END",
    "REQUEST_TABLE",
    "RESPONSE_TABLE",
    "STRAY",
    "ConnectionState",
]


class _Name:
    """A state or an event: itself and nothing else, and quicker to look up than an Enum's."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


# States, of a request or of a response.
IDLE = _Name("IDLE")
SENDING = _Name("SENDING")
SENT = _Name("SENT")
AWAITED = _Name("AWAITED")
BODY = _Name("BODY")
DONE = _Name("DONE")
MUST_CLOSE = _Name("MUST_CLOSE")

# What happens to a request.
ALL_SENT = _Name("ALL_SENT")
"""Its last byte went out."""
GIVEN_UP = _Name("GIVEN_UP")
"""The rest of it will never be sent, since the peer has answered already."""

# What happens to a response.
HEAD = _Name("HEAD")
"""The head of the final response is there."""
END = _Name("END")
"""It is whole, and the peer keeps the connection open."""
LAST_END = _Name("LAST_END")
"""It is whole, and the last one on its connection."""
STRAY = _Name("STRAY")
"""Bytes came that belong to no response."""
CUT_OFF = _Name("CUT_OFF")
"""The peer closed its side."""

REQUEST_TABLE: dict[_Name, dict[_Name, _Name]] = {
    IDLE: {},
    SENDING: {ALL_SENT: SENT, GIVEN_UP: MUST_CLOSE},
    SENT: {},
    MUST_CLOSE: {},
}

RESPONSE_TABLE: dict[_Name, dict[_Name, _Name]] = {
    IDLE: {STRAY: MUST_CLOSE, CUT_OFF: MUST_CLOSE},
    AWAITED: {HEAD: BODY, CUT_OFF: MUST_CLOSE},
    BODY: {END: DONE, LAST_END: MUST_CLOSE, STRAY: MUST_CLOSE, CUT_OFF: MUST_CLOSE},
    DONE: {STRAY: MUST_CLOSE, CUT_OFF: MUST_CLOSE},
    MUST_CLOSE: {},
}


class ConnectionState:
    """Where one connection is in its life.

    Attributes:
        request, response: Of the exchange under way, or of the last one.
    """

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request = IDLE
        self.response = IDLE

    @property
    def may_serve_again(self) -> bool:
        """Whether the exchange is over and has left nothing behind."""
        return self.request is SENT and self.response is DONE

    def begin(self) -> bool:
        """A request is about to be sent; False where the connection is not clean, and must not be used."""
        if (self.request is SENT and self.response is DONE) or (self.request is IDLE and self.response is IDLE):
            self.request, self.response = SENDING, AWAITED
            return True
        return False

    def of_request(self, event: _Name) -> None:
        """Something happened to the request."""
        self.request = REQUEST_TABLE[self.request].get(event, MUST_CLOSE)

    def of_response(self, event: _Name) -> None:
        """Something happened to the response."""
        self.response = RESPONSE_TABLE[self.response].get(event, MUST_CLOSE)
