"""One logical request as a state machine: begin, attempt, outcome, retry or done.

Enters: a request's head and the current `Directory` (routes and clusters, compiled from one snapshot). Leaves: an
`Attempt` (endpoint, target, headers, deadline) for an engine to carry out, or a `LocalReply`; and after each attempt
the answer to "again, and when?". No I/O, no clock: time and randomness are passed in. Engines are loops around this.
"""

from .attempt import Attempt
from .directory import Directory
from .exchange import Exchange
from .local_reply import LocalReply
from .outcome import Failure, Outcome
from .reporting import count_end, report
from .retry import asked_back_off, retrying

__all__ = [
    "Attempt",
    "Directory",
    "Exchange",
    "Failure",
    "LocalReply",
    "Outcome",
    "asked_back_off",
    "count_end",
    "report",
    "retrying",
]
