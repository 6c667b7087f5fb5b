"""Request ids of requests that come in: an Envoy in front of an application, and the application on the mesh."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .inbound_subjects import SERVER_SUBJECTS, ServerSubject, running_server
from .test_request_ids import _sampling, _uuid_config

NAME = "x-request-id"
GIVEN = "00000000-2222-9333-8444-555555555555"
MADE = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[49][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
EDGE = {"use_remote_address": True}


def _seen(side: ServerSubject, given: str | None) -> tuple[str | None, str | None]:
    """The id that the application got, and that of the answer; one that was made is `made`."""
    answer = side.send(headers={} if given is None else {NAME: given})
    values = side.received[-1].headers.get(NAME), answer.headers.get(NAME)
    if values[0] is not None and values[1] is not None:
        assert values[0] == values[1]
    known = [_known(value, given) for value in values]
    return known[0], known[1]


def _known(value: str | None, given: str | None) -> str | None:
    is_made = value is not None and value[:13] != (given or "")[:13] and MADE.fullmatch(value)
    return "made" if is_made else value


@pytest.mark.parametrize("subject", SERVER_SUBJECTS)
@pytest.mark.parametrize(
    ("manager", "given", "expected"),
    [
        ({}, None, ("made", None)),
        ({}, "mine", ("mine", None)),
        ({"generate_request_id": False}, None, (None, None)),
        ({"generate_request_id": False}, "mine", ("mine", None)),
        ({"always_set_request_id_in_response": True}, None, ("made", "made")),
        ({"always_set_request_id_in_response": True}, "mine", ("mine", "mine")),
        ({**EDGE}, GIVEN, ("made", None)),
        ({**EDGE, "preserve_external_request_id": True}, GIVEN, (GIVEN.replace("-9", "-4"), None)),
        ({**EDGE, "preserve_external_request_id": True}, "mine", ("mine", None)),
        ({**EDGE, "preserve_external_request_id": True, **_uuid_config(pack_trace_reason=False)}, GIVEN, (GIVEN, None)),
        (_sampling(random=100), GIVEN.replace("-9", "-4"), (GIVEN, None)),
        (_sampling(random=0), GIVEN.replace("-9", "-4"), (GIVEN.replace("-9", "-4"), None)),
        ({**_sampling(random=0)}, GIVEN, (GIVEN, None)),
    ],
)
def test_ids_are_made_and_kept(
    subject: str, manager: dict[str, Any], given: str | None, expected: tuple[str | None, str | None], tmp_path: Path
) -> None:
    with running_server(subject, tmp_path, [], manager={"generate_request_id": True, **manager}) as side:
        assert _seen(side, given) == expected
