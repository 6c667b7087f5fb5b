"""What a server's requests must pass before the application sees them, and what becomes of the answers.

Enters: a server's listener with its routes (`discovery.ServerView`), and a request's head with its connection. Leaves:
the request as the application gets it, or the answer in its place. One engine for ASGI, WSGI and gRPC: it does no I/O,
and says what it waits for (`waits`), which those who call it carry out.
"""

from .connection import Connection, Fact
from .policy import InboundPolicy, compile_policy
from .request import InboundRequest
from .waits import AskAuthorization, AskRateLimit, Delay, FetchKeys, ReadBody, Wait

__all__ = [
    "AskAuthorization",
    "AskRateLimit",
    "Connection",
    "Delay",
    "Fact",
    "FetchKeys",
    "InboundPolicy",
    "InboundRequest",
    "ReadBody",
    "Wait",
    "compile_policy",
]
