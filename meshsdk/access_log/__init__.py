"""Access logs: a line for each request that is over, in Envoy's words.

entry       what is known of the request; made by whoever carried it out, in clients and servers alike
operators   Envoy's command operators, each compiled into a function of the entry
format      text and JSON formats of them, compiled when configuration comes
writer      one queue and one thread for each sink; no request waits for either
logs        which logs a Mesh has
metric_tags labels of metrics that come from requests, by the same entries
"""

from .entry import Entry, Headers, OfServer, RemembersSteady, Steady
from .format import ISTIO_JSON, ISTIO_TEXT, compile_json, compile_text
from .logs import VARIABLE, AccessLog, AccessLogs, asked_for

__all__ = [
    "ISTIO_JSON",
    "ISTIO_TEXT",
    "VARIABLE",
    "AccessLog",
    "AccessLogs",
    "Entry",
    "Headers",
    "OfServer",
    "RemembersSteady",
    "Steady",
    "asked_for",
    "compile_json",
    "compile_text",
]
