"""One event is one line of the log, whatever names it tells.

Names come from certificates, requests, files and servers, and may hold what ends a line, turns the direction of writing
or moves a terminal's cursor. It is escaped once, where records are made: every logger of this library comes from
`logger_of`, whose filter looks at all arguments, and at the messages of exceptions in tracebacks. What an error of this
library says is escaped when it is made (`errors.MeshError`), since applications write errors into their own logs.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from .one_line import one_line

__all__ = ["logger_of"]


def logger_of(name: str) -> logging.Logger:
    """The logger of that name; what it is told cannot begin another line."""
    logger = logging.getLogger(name)
    logger.addFilter(_ONE_LINE)  # Adding it again changes nothing.
    return logger


class _Shown(str):
    """The text of an argument, escaped; `%r` of it is what it was of the argument, escaped."""

    _repr: str

    def __new__(cls, argument: object) -> _Shown:
        self = super().__new__(cls, one_line(str(argument)))
        self._repr = one_line(repr(argument))
        return self

    def __repr__(self) -> str:
        return self._repr


def _shown(argument: Any) -> Any:
    # Numbers stay numbers, for %d.
    if isinstance(argument, int | float) or (str(argument).isprintable() and repr(argument).isprintable()):
        return argument
    return _Shown(argument)


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, dict):
            record.args = {name: _shown(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_shown, record.args))
        elif isinstance(record.msg, str):
            record.msg = one_line(record.msg)
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = _traceback(record.exc_info[1])
        return True


def _traceback(error: BaseException) -> str:
    """As logging writes it, with the messages in one line each."""
    told = traceback.TracebackException.from_exception(error)
    _escape(told)
    return "".join(told.format()).rstrip("\n")


def _escape(told: traceback.TracebackException | None) -> None:
    while told is not None:
        # Where the standard library keeps the message, which it has made a text already.
        vars(told)["_str"] = one_line(str(vars(told).get("_str", "")))
        for inner in getattr(told, "exceptions", None) or ():
            _escape(inner)
        if told.__cause__ is not None:
            _escape(told.__context__)
        told = told.__cause__ or told.__context__


_ONE_LINE = _OneLine()
