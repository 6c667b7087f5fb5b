"""How one Mesh is looked at: metrics, access logs and the admin page. Nobody pays for what is not asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from .configuration import find_port
from .control import Control
from .security import Identity

if TYPE_CHECKING:
    from .access_log import AccessLog, Entry
    from .access_log.sinks import Sink
    from .admin import Admin
    from .decision import Decision
    from .explaining import Past
    from .mesh_status import MeshStatus
    from .resources.log_service import LogService
    from .server.monitoring import Monitoring

__all__ = ["Watched"]

METRICS_PORT_VARIABLE, ADMIN_PORT_VARIABLE = "MESHSDK_METRICS_PORT", "MESHSDK_ADMIN_PORT"
ACCESS_LOG_VARIABLE = "MESHSDK_ACCESS_LOG"


class Watched:
    """What was asked for of one Mesh.

    Args:
        control: Its inner side.
        explain, status: Those of the Mesh.
        identity: The process's own.
        account: Its service account, as far as it is known.
    """

    def __init__(
        self,
        control: Control,
        explain: Callable[..., Decision],
        status: Callable[[], MeshStatus],
        identity: Identity | None,
        account: str,
    ) -> None:
        self._control = control
        self._explain = explain
        self._status = status
        self._identity = identity
        self._account = account
        self._monitoring: Monitoring | None = None
        self._admin: Admin | None = None

    def begin(
        self, metrics_port: int | None, admin_port: int | None, access_log: AccessLog | str | bool | None
    ) -> None:
        """Serve and write what the arguments or the environment ask for.

        Raises:
            ValueError, BootstrapError: A port is none, or a format.
        """
        self._control.keeps_logs = access_log is not False
        self._control.open_log_service = self._open_log_service
        if access_log or (access_log is None and os.environ.get(ACCESS_LOG_VARIABLE)):
            self._keep_log(access_log)
        metrics_port = find_port("metrics_port", metrics_port, METRICS_PORT_VARIABLE)
        admin_port = find_port("admin_port", admin_port, ADMIN_PORT_VARIABLE)
        if metrics_port is not None:
            self.monitor(metrics_port)
        if admin_port is not None:
            from .admin import Admin

            self._admin = Admin(self._control, self.monitor(), self._explain, self._status, self._identity, admin_port)

    def _keep_log(self, asked: AccessLog | str | bool | None) -> None:
        from .access_log import AccessLogs, asked_for
        from .http.measured import Record

        self._control.access_logs = AccessLogs(asked_for(asked, os.environ), Record, self._open_log_service)

    def _open_log_service(self, service: LogService) -> Sink[Entry]:
        from .server.log_service import ServiceSink

        return ServiceSink(self._control, service)

    def monitor(self, port: int | None = None) -> Monitoring:
        """What counts requests, which begins with the first call."""
        if self._monitoring is None:
            from .server.monitoring import Monitoring

            self._monitoring = Monitoring(self._control, port, self._account)
        return self._monitoring

    @property
    def admin_url(self) -> str:
        """Where the admin page is; empty where there is none, or not yet."""
        return self._admin.url if self._admin is not None else ""

    @property
    def past(self) -> Past | None:
        """Configurations that were in use, where they are kept."""
        return self._admin.history if self._admin is not None else None

    def close(self) -> None:
        """Give the ports back, and write what is still to be written."""
        if self._monitoring is not None:
            self._monitoring.close()
        if self._control.access_logs is not None:
            self._control.access_logs.close()
        if self._admin is not None:
            self._admin.close()
