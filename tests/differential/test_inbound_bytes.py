"""Headers beyond ASCII: rules of the real Envoy compare their bytes with those of configuration, and so do ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2

from .generate_inbound import condition
from .inbound_subjects import SERVER_SUBJECTS, running_server
from .subjects import cluster
from .test_inbound_behaviour import _HTTP2 as HTTP2

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


class _Authorizer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """envoy.service.auth.v3.Authorization: lets everybody in, and remembers what it was told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self.check,
            request_deserializer=external_auth_pb2.CheckRequest.FromString,
            response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
        )

    def check(self, request: Any, context: Any) -> Any:
        http = request.attributes.request.http
        self.asked.append([(one.key, one.raw_value) for one in http.header_map.headers if one.key == "x-word"])
        self.asked[-1] += [(name, value) for name, value in http.headers.items() if name == "x-word"]
        return external_auth_pb2.CheckResponse()


@pytest.mark.parametrize("raw", [False, True])
def test_authorization_servers_are_told_of_them_as_by_envoy(tmp_path: Path, stack: ExitStack, raw: bool) -> None:
    authorizer, server = _Authorizer(), grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((authorizer,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    settings = {
        "@type": f"{_TYPE}/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "judge"}, "timeout": "20s"},
        "transport_api_version": "V3",
        "encode_raw_headers": raw,
    }
    filters = [{"name": "ext_authz", "typed_config": settings}]
    for kind in SERVER_SUBJECTS:
        folder = tmp_path / kind
        folder.mkdir()
        with running_server(kind, folder, filters, clusters=[cluster("judge", port, **HTTP2)]) as subject:
            for value in (b"plain", "böse".encode(), "\N{SNOWMAN}".encode()):
                assert subject.send(headers=[(b"x-word", value)]).status_code == 200
            assert subject.send(headers=[(b"x-word", b"one"), (b"x-word", "zwö".encode())]).status_code == 200
    half = len(authorizer.asked) // 2
    assert authorizer.asked[half:] == authorizer.asked[:half]
    assert len(authorizer.asked[-1]) == (2 if raw else 1)
