"""Credentials that an agent on a unix socket pushes over a gRPC stream."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..errors import IdentityError
from ..forked import keep
from .background import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, BackgroundIdentity

__all__ = ["StreamedIdentity", "unix_target"]


def unix_target(socket: str | os.PathLike[str]) -> str:
    """A gRPC target of a path, or of a `unix:` address as it is."""
    text = os.fspath(socket)
    return text if text.startswith("unix:") else f"unix:{text}"


class StreamedIdentity(BackgroundIdentity):
    """Follows an agent: what it pushes is in use from the next handshake on.

    Args:
        target: The agent, as gRPC names it.
        source: What it is called in messages.
    """

    def __init__(self, target: str, source: str) -> None:
        self._target = target
        super().__init__(source)

    def reset(self) -> None:
        """See `BackgroundIdentity`."""
        keep(getattr(self, "_call", None))
        self._call: Any = None
        super().reset()

    def open(self, channel: grpc.Channel) -> Any:
        """Begin the stream: a grpc.Call whose messages go to `take`."""
        raise NotImplementedError

    def take(self, message: object) -> None:
        """Use what came.

        Raises:
            IdentityError, DecodeError: It cannot be used; the stream goes on.
        """
        raise NotImplementedError

    def run(self) -> None:
        """See `BackgroundIdentity`."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                if self._follow():
                    pause = FIRST_PAUSE_SECONDS
            except grpc.RpcError as error:
                if not self._stopping.is_set():
                    self._fail(f"{error.code().name}: {error.details()}")
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _follow(self) -> bool:
        """One stream, until it ends; whether it brought anything good."""
        is_good = False
        with grpc.insecure_channel(self._target) as channel:
            call = self._call = self.open(channel)
            try:
                for message in call:
                    try:
                        self.take(message)
                        is_good = True
                    except (DecodeError, IdentityError) as error:
                        self._fail(str(error))
            finally:
                with contextlib.suppress(Exception):
                    call.cancel()
        return is_good

    def interrupt(self) -> None:
        """See `BackgroundIdentity`."""
        call = self._call
        if call is not None:
            call.cancel()
