"""Who a request comes from: its client's address and certificate, and what proxies say of it."""

from .client_address import remote_address
from .client_certificate import compile_client_certificate
from .downstream import check_changes, check_operators, compile_changes, connection_value, format_context
from .proxy_headers import compile_sanitizing, must_be_secured, without_underscores
from .request_ids import compile_identification

__all__ = [
    "check_changes",
    "check_operators",
    "compile_changes",
    "compile_client_certificate",
    "compile_identification",
    "compile_sanitizing",
    "connection_value",
    "format_context",
    "must_be_secured",
    "remote_address",
    "without_underscores",
]
