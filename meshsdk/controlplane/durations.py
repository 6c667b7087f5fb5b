"""Seconds as xDS says them."""

from __future__ import annotations

from google.protobuf import duration_pb2

__all__ = ["set_seconds"]


def set_seconds(duration: duration_pb2.Duration, seconds: float) -> None:
    """Set a duration, which in Istio is of whole milliseconds: 2.01 s are 2010 of them, and not a bit less."""
    duration.FromMilliseconds(round(seconds * 1000))
