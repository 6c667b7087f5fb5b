"""The access logs of one Mesh: those that the application asks for, and those that configuration brings."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ResourceError
from ..log_lines import logger_of
from ..resources.access_log import AccessLogConfig, parse_filter_document
from ..resources.log_service import LogService
from .entry import Entry, Steady, size_of
from .filters import Predicate, compile_filter
from .format import ENVOY_TEXT, ISTIO_JSON, ISTIO_TEXT, compile_json, compile_text
from .sinks import LoggingSink, Sink, sink_of
from .writer import Pace, Writer

__all__ = ["VARIABLE", "AccessLog", "AccessLogs", "asked_for"]

VARIABLE = "MESHSDK_ACCESS_LOG"

logger = logger_of("meshsdk.access_log")

# Beyond this all is found out anew.
_MAX_KNOWN = 4096
_LONGEST_KNOWN = 512

# Bytes of entries that may wait for a server, about.
_MAX_WAITING_ENTRIES = 16 * 1024 * 1024

BeginHttp = Callable[..., Any]
OpenService = Callable[[LogService], Sink[Entry]]


def _itself(entry: Entry) -> Entry:
    """A server is told of the entry by the writer's thread."""
    return entry


@dataclass(frozen=True, slots=True)
class AccessLog:
    """An access log: a line for each request that this process sends or gets (docs/access-logs.md).

    Args:
        path: A file, or `-` for standard output; `/dev/stderr` is standard error.
        format: Envoy's text format with command operators; by default Istio's.
        json_format: Envoy's JSON format instead: names to formats, nested as you like. `ISTIO_JSON` is Istio's.
        logger: Instead of a path: the name of a logger of Python's, which gets each line with level INFO.
        omit_empty_values: What is missing is left out, rather than a dash or null.
        filter: Which requests: Envoy's AccessLogFilter as JSON has it, or a CEL expression (`response.code >= 400`).

    Raises:
        ResourceError: A format has an operator that is not known, or the filter is none; raised by the Mesh.
    """

    path: str = ""
    format: str = ""
    json_format: Mapping[str, Any] | None = None
    logger: str = ""
    omit_empty_values: bool = False
    filter: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        if self.path and self.logger:
            raise ValueError("an access log goes to a path or to a logger, not to both")
        if self.format and self.json_format is not None:
            raise ValueError("an access log has a format or a json_format, not both")


class Logger:
    """What writes one access log: which requests, what of them, and where to."""

    __slots__ = ("line", "picks", "writer")

    def __init__(self, line: Callable[[Entry], Any], picks: Predicate | None, writer: Writer[Any]) -> None:
        self.line = line
        self.picks = picks
        self.writer = writer


Loggers = tuple[Logger, ...]
Configs = tuple[AccessLogConfig, ...]


class AccessLogs:
    """Writes the access logs of a Mesh.

    Args:
        own: What the application asks for.
        begin_http: Begins the record of a request that httpx sends.
        open_service: Opens a server that entries are sent to.

    Attributes:
        follows: Listeners have access logs of their own.
        known: What requests have in common, by keys of the engines' own.

    Raises:
        ResourceError: A format has an operator that is not known.
    """

    def __init__(
        self, own: tuple[AccessLog, ...], begin_http: BeginHttp, open_service: OpenService | None = None
    ) -> None:
        self.begin_http = begin_http
        self._open_service = open_service
        self.follows = False
        self.known: dict[Any, Steady] = {}
        self._writers: dict[str | LogService, Writer[Any]] = {}
        self._failures = 0
        # By the identity of what configuration says, which is kept beside it.
        self._followed: dict[int, tuple[Configs, Loggers]] = {}
        self._own = tuple(self._make_own(one) for one in own)

    def write(self, entry: Entry, configs: Configs = ()) -> None:
        """A request is over. Whatever its values are, nothing comes of it but a line or none.

        Args:
            entry: What is known of it.
            configs: Its listener's access logs.
        """
        loggers = self._own
        if configs:
            followed = self._followed.get(id(configs))
            if followed is not None:
                loggers = loggers + followed[1]
        for one in loggers:
            try:
                if one.picks is None or one.picks(entry):
                    one.writer.write(one.line(entry))
            except Exception:  # noqa: BLE001 - a request must not fail for its log; it is told with its traceback.
                self._failed()

    def remember(self, key: Any, steady: Steady) -> Steady:
        """Know what many requests have in common; what is long is some stranger's, and would take memory."""
        if len(steady.authority) + len(steady.method) + len(steady.details) > _LONGEST_KNOWN:
            return steady
        if len(self.known) >= _MAX_KNOWN:
            self.known = {}
        self.known[key] = steady
        return steady

    def follow(self, every: Iterable[Configs]) -> list[str]:
        """Configuration has changed. On the control thread.

        Args:
            every: The access logs of each listener, those of one in one tuple.

        Returns:
            What is wrong with them; these are not written.
        """
        problems: list[str] = []
        followed: dict[int, tuple[Configs, Loggers]] = {}
        for configs in every:
            known = self._followed.get(id(configs))
            followed[id(configs)] = known if known is not None else (configs, self._make_each(configs, problems))
        self._followed = followed
        self._close_unused()
        self.forget()
        self.follows = bool(followed)
        return problems

    def forget(self) -> None:
        """Endpoints may be gone, and with them what requests to them had in common."""
        self.known = {}

    def _close_unused(self) -> None:
        """Logs that no listener has any more. Closing may take its time, and configuration must not wait."""
        used = {one.writer for _, loggers in self._followed.values() for one in loggers}
        used |= {one.writer for one in self._own}
        for key, writer in list(self._writers.items()):
            if writer not in used:
                del self._writers[key]
                threading.Thread(target=writer.close, name="meshsdk-access-log-end", daemon=True).start()

    def _make_each(self, configs: Configs, problems: list[str]) -> Loggers:
        made = []
        for config in configs:
            try:
                made.append(self._make(config))
            except ResourceError as error:
                problems.append(f"the access log {config.path} is not written: {error}")
        return tuple(made)

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return sum(writer.dropped for writer in list(self._writers.values()))

    def flush(self, seconds: float = 2.0) -> bool:
        """Wait until all lines are written; False where that takes longer."""
        return all(writer.flush(seconds) for writer in list(self._writers.values()))

    def close(self) -> None:
        """Write what there is. Lines of requests that still end are written, too."""
        for writer in list(self._writers.values()):
            writer.close()

    def _make_own(self, log: AccessLog) -> Logger:
        text = log.format or ISTIO_TEXT
        picks = parse_filter_document(log.filter, "AccessLog.filter") if log.filter is not None else None
        config = AccessLogConfig(
            log.path or "-",
            text if text.endswith("\n") else f"{text}\n",
            json.dumps(dict(log.json_format)) if log.json_format is not None else "",
            log.omit_empty_values,
            picks,
        )
        return self._make(config, log.logger)

    def _make(self, config: AccessLogConfig, logger_name: str = "") -> Logger:
        if config.service is not None:
            picks = compile_filter(config.filter, "AccessLog.filter") if config.filter is not None else None
            return Logger(_itself, picks, self._writer_to(config.service))
        if config.json:
            line = compile_json(json.loads(config.json), "AccessLog.json_format", omits_empty=config.omits_empty)
        else:
            line = compile_text(config.text or ENVOY_TEXT, "AccessLog.format", omits_empty=config.omits_empty)
        picks = compile_filter(config.filter, "AccessLog.filter") if config.filter is not None else None
        return Logger(line, picks, self._writer(config.path, logger_name))

    def _writer_to(self, service: LogService) -> Writer[Any]:
        writer = self._writers.get(service)
        if writer is None:
            if self._open_service is None:
                raise ResourceError("AccessLog", "there is nobody who sends to servers")
            pace = Pace(service.flush_seconds, service.buffer_bytes, _MAX_WAITING_ENTRIES)
            writer = self._writers[service] = Writer(self._open_service(service), service.name, pace, size_of)
        return writer

    def _writer(self, path: str, name: str = "") -> Writer[Any]:
        key = f"logger {name}" if name else os.path.abspath(path) if path != "-" else path
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = Writer(LoggingSink(name) if name else sink_of(path), key)
        return writer

    def _failed(self) -> None:
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # The 1st, 2nd, 4th, 8th and so on.
            logger.exception("a line of an access log cannot be made (%d times)", self._failures)


Asked = bool | str | AccessLog | None


def asked_for(asked: Asked, environment: Mapping[str, str]) -> tuple[AccessLog, ...]:
    """What the argument of a Mesh or the environment ask for.

    Args:
        asked: True and `-` are standard output, a text is a path; False is none, whatever the environment says.
        environment: MESHSDK_ACCESS_LOG has a path, or `-`, or `json:` and either for Istio's JSON format.
    """
    if asked is None:
        asked = environment.get(VARIABLE) or False
    if asked is False:
        return ()
    if asked is True:
        return (AccessLog("-"),)
    if isinstance(asked, AccessLog):
        return (asked,)
    if isinstance(asked, str) and asked:
        path = asked.removeprefix("json:")
        return (AccessLog(path or "-", json_format=ISTIO_JSON if path != asked else None),)
    raise ValueError(f"access_log must be True, a path or an AccessLog, is {asked!r}")
