"""What the log says of a management server that goes away, and comes back."""

from __future__ import annotations

import logging

import pytest

from meshsdk.testing import ControlPlane

from ..conftest import service
from ..patience import eventually


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    with ControlPlane() as control_plane, caplog.at_level(logging.DEBUG, "meshsdk.xds"):
        control_plane.apply(service("reviews", 1, port=9080))
        mesh = control_plane.mesh("web")
        mesh.wait_ready("reviews:9080", timeout=30)

        control_plane.stop()
        eventually(lambda: sum("stays in use" in message for message in caplog.messages) >= 4)
        control_plane.start()

        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len(told) == 2
    assert "UNAVAILABLE" in told[0]
    assert told[0].endswith("; the last good configuration stays in use")
    assert told[1].endswith(" answers again")
