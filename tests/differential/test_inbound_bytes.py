"""Headers beyond ASCII: rules of the real Envoy compare their bytes with those of configuration, and so do ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .generate_inbound import condition
from .inbound_subjects import SERVER_SUBJECTS, running_server

_TYPE = "type.googleapis.com"
_ANY = {"any": True}

VALUES = [
    value.encode()
    for value in (
        "böse",
        "BöSE",
        "BÖSE",
        "b\N{COMBINING DIAERESIS}se",
        "bÃ¶se",
        "bxse",
        "bose",
        "Kelvin",
        "\u212aelvin",
        "evil",
    )
] + [b"b\xf6se", b"b\xffse", b"\xff", b"evil\xff", b"\xe4\xb8", "böse".encode("utf-16-be").replace(b"\0", b"")]


def _is(**match: Any) -> dict[str, Any]:
    return {"permissions": [{"header": {"name": "x-word", "string_match": match}}], "principals": [_ANY]}


def _cel(expression: str) -> dict[str, Any]:
    return {"permissions": [_ANY], "principals": [_ANY], "condition": condition(expression)}


RULES = {
    "exact": _is(exact="böse"),
    "in any case": _is(exact="bÖSE", ignore_case=True),
    "ascii in any case": _is(exact="kelvin", ignore_case=True),
    "prefix": _is(prefix="bö"),
    "suffix": _is(suffix="öse"),
    "contains": _is(contains="ö"),
    "contains in any case": _is(contains="Ö", ignore_case=True),
    "one of any": _is(safe_regex={"regex": "b.se"}),
    "a letter": _is(safe_regex={"regex": "böse"}),
    "anything": _is(safe_regex={"regex": ".*"}),
    "anything else": _is(safe_regex={"regex": "[^e]*"}),
    "cel": _cel("request.headers['x-word'] == 'böse'"),
    "cel begins": _cel("request.headers['x-word'].startsWith('evil')"),
}


def _tree() -> dict[str, Any]:
    """A policy as a matcher tree, by a map of exact values."""
    header = f"{_TYPE}/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    action = {"@type": f"{_TYPE}/envoy.config.rbac.v3.Action", "name": "allowed", "action": "ALLOW"}
    return {
        "matcher_tree": {
            "input": {"name": "header", "typed_config": {"@type": header, "header_name": "x-word"}},
            "exact_match_map": {"map": {"böse": {"action": {"name": "allow", "typed_config": action}}}},
        }
    }


def _answers(kind: str, folder: Path, filters: list[dict[str, Any]], values: list[bytes]) -> list[int]:
    folder.mkdir()
    with running_server(kind, folder, filters) as subject:
        return [subject.send(headers=[(b"x-word", value)]).status_code for value in values]


def _rbac(**settings: Any) -> list[dict[str, Any]]:
    config = {"@type": f"{_TYPE}/envoy.extensions.filters.http.rbac.v3.RBAC", **settings}
    return [{"name": "rbac", "typed_config": config}]


def test_headers_beyond_ascii_are_compared_as_in_envoy(tmp_path: Path) -> None:
    policies = {name: _rbac(rules={"action": "ALLOW", "policies": {"one": rule}}) for name, rule in RULES.items()}
    policies["tree"] = _rbac(matcher=_tree())
    answers: dict[str, list[tuple[str, bytes, int]]] = {}
    for kind in SERVER_SUBJECTS:
        answers[kind] = [
            (name, value, status)
            for place, (name, filters) in enumerate(policies.items())
            for value, status in zip(VALUES, _answers(kind, tmp_path / f"{kind}{place}", filters, VALUES), strict=True)
        ]
    [judge, ours] = answers.values()
    differences = [(*one, other[2]) for one, other in zip(judge, ours, strict=True) if one != other]
    assert not differences, "\n".join(map(str, differences))
    assert {status for _, _, status in judge} == {200, 403}
