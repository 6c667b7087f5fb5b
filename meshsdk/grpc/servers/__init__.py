"""gRPC servers of this process: interceptors, credentials, load reports."""

from .credentials import server_credentials
from .interceptors import MeshAioServerInterceptor, MeshServerInterceptor
from .load_reports import LoadReport, LoadReports, current_load_report
from .policy import ServerPolicy, server_policy

__all__ = [
    "LoadReport",
    "LoadReports",
    "MeshAioServerInterceptor",
    "MeshServerInterceptor",
    "ServerPolicy",
    "current_load_report",
    "server_credentials",
    "server_policy",
]
