"""Where tokens are looked for, how many must be good, and what is JSON: the real Envoy and meshsdk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from .inbound_subjects import SERVER_SUBJECTS, running_server
from .tokens import ISSUERS, TOKENS, signed, signed_text

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
Headers = list[tuple[str, str]]


def provider(issuer: str, keys: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "local_jwks": {"inline_string": json.dumps(ISSUERS[keys or issuer])},
        "forward": True,
        **fields,
    }


PROVIDERS = {
    "one": provider("one"),
    "two": provider("two", from_headers=[{"name": "x-jwt", "value_prefix": "Token "}, {"name": "x-plain"}]),
    "any place": provider(
        "one",
        from_headers=[{"name": "x-jwt"}, {"name": "authorization", "value_prefix": "Bearer "}],
        from_params=["t"],
        from_cookies=["c"],
    ),
}
ONE, TWO, ANY = ({"provider_name": name} for name in PROVIDERS)
MISSING: dict[str, Any] = {"allow_missing": {}}
FAILED: dict[str, Any] = {"allow_missing_or_failed": {}}


def any_of(*inner: dict[str, Any]) -> dict[str, Any]:
    return {"requires_any": {"requirements": list(inner)}}


def all_of(*inner: dict[str, Any]) -> dict[str, Any]:
    return {"requires_all": {"requirements": list(inner)}}


REQUIREMENTS: dict[str, dict[str, Any]] = {
    "one": ONE,
    "two": TWO,
    "any-place": ANY,
    "missing": MISSING,
    "failed": FAILED,
    "any": any_of(ONE, TWO),
    "any-turned": any_of(TWO, ONE),
    "all": all_of(ONE, TWO),
    "any-missing": any_of(ONE, MISSING),
    "any-missing-first": any_of(MISSING, TWO),
    "any-failed": any_of(ONE, FAILED),
    "any-both": any_of(ONE, MISSING, FAILED),
    "all-missing": all_of(ONE, MISSING),
    "all-failed": all_of(FAILED, TWO),
    "any-of-all": any_of(all_of(ONE, TWO), TWO),
    "any-of-all-missing": any_of(all_of(ONE, TWO), MISSING),
    "all-of-any": all_of(any_of(ONE, TWO), any_of(TWO, MISSING)),
    "audience": {"provider_and_audiences": {"provider_name": "one", "audiences": ["a2"]}},
    "any-audience": any_of({"provider_and_audiences": {"provider_name": "one", "audiences": ["a2"]}}, ONE),
}


def checks(providers: dict[str, Any], requirements: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rules = [{"match": {"path": f"/{name}"}, "requires": one} for name, one in requirements.items()]
    config = {"@type": f"{_HTTP}.jwt_authn.v3.JwtAuthentication", "providers": providers, "rules": rules}
    return {"name": "jwt", "typed_config": config}


GOOD, AGAIN, FORGED, TAMPERED = TOKENS["one"], TOKENS["one again"], TOKENS["other key"], TOKENS["tampered"]
GOOD_TWO, EXPIRED, OTHER = TOKENS["two"], TOKENS["expired"], TOKENS["unknown issuer"]


def bearer(*tokens: str) -> Headers:
    return [("authorization", f"Bearer {token}") for token in tokens]


# What is sent: headers, and a query.
SENT: dict[str, tuple[Headers, str]] = {
    "nothing": ([], ""),
    "good": (bearer(GOOD), ""),
    "forged": (bearer(FORGED), ""),
    "good, then forged": (bearer(GOOD, FORGED), ""),
    "forged, then good": (bearer(FORGED, GOOD), ""),
    "good twice": (bearer(GOOD, AGAIN), ""),
    "the same twice": (bearer(GOOD, GOOD), ""),
    "good, then empty": ([*bearer(GOOD), ("authorization", "")], ""),
    "good, then Basic": ([*bearer(GOOD), ("authorization", "Basic YTpi")], ""),
    "Basic": ([("authorization", "Basic YTpi")], ""),
    "a list": ([("authorization", f"Bearer {GOOD},Bearer {FORGED}")], ""),
    "a list with a space": ([("authorization", f"Bearer {GOOD}, Bearer {FORGED}")], ""),
    "a list of good ones": ([("authorization", f"Bearer {GOOD},Bearer {AGAIN}")], ""),
    "a list without prefix": ([("authorization", f"Bearer {GOOD},{FORGED}")], ""),
    "a list that begins otherwise": ([("authorization", f"Basic YTpi,Bearer {GOOD}")], ""),
    "parameters of the scheme": ([("authorization", f"Bearer {GOOD}; a=b")], ""),
    "a quoted token": ([("authorization", f'Bearer "{GOOD}"')], ""),
    "words before": ([("authorization", f"Bearer token={GOOD}")], ""),
    "spaces before": ([("authorization", f"Bearer   {GOOD}")], ""),
    "a space behind": ([("authorization", f"Bearer {GOOD} x")], ""),
    "a tab behind": ([("authorization", f"Bearer {GOOD}\tx")], ""),
    "a comma behind": ([("authorization", f"Bearer {GOOD},")], ""),
    "lower case": ([("authorization", f"bearer {GOOD}")], ""),
    "no token": ([("authorization", "Bearer")], ""),
    "only signs": ([("authorization", "Bearer !!")], ""),
    "Bearer twice": ([("authorization", f"Bearer Bearer {GOOD}")], ""),
    "Bearer behind": ([("authorization", f"{FORGED}Bearer {GOOD}")], ""),
    "good two": ([("x-jwt", f"Token {GOOD_TWO}")], ""),
    "good one and two": ([*bearer(GOOD), ("x-jwt", f"Token {GOOD_TWO}")], ""),
    "good one, tampered two": ([*bearer(GOOD), ("x-jwt", f"Token {GOOD_TWO}x")], ""),
    "forged one, good two": ([*bearer(FORGED), ("x-jwt", f"Token {GOOD_TWO}")], ""),
    "forged one, two missing": (bearer(TAMPERED), ""),
    "expired one, good two": ([*bearer(EXPIRED), ("x-jwt", f"Token {GOOD_TWO}")], ""),
    "foreign one, good two": ([*bearer(OTHER), ("x-jwt", f"Token {GOOD_TWO}")], ""),
    "one where two is": ([("x-jwt", f"Token {GOOD}")], ""),
    "two where one is": (bearer(GOOD_TWO), ""),
    "two twice": ([("x-jwt", f"Token {GOOD_TWO}"), ("x-jwt", "Token x.y.z")], ""),
    "two at two places": ([("x-jwt", f"Token {GOOD_TWO}"), ("x-plain", GOOD_TWO)], ""),
    "two at two places, one bad": ([("x-jwt", f"Token {GOOD_TWO}"), ("x-plain", FORGED)], ""),
    "plain": ([("x-plain", GOOD_TWO)], ""),
    "plain with a space": ([("x-plain", f"{GOOD_TWO} x")], ""),
    "plain, empty": ([("x-plain", "")], ""),
    "plain list": ([("x-plain", f"{GOOD_TWO},{GOOD_TWO}")], ""),
    "parameter": ([], f"access_token={GOOD}"),
    "parameter twice": ([], f"access_token={GOOD}&access_token={FORGED}"),
    "parameter twice, turned": ([], f"access_token={FORGED}&access_token={GOOD}"),
    "parameter escaped": ([], f"access%5Ftoken={GOOD.replace('.', '%2E')}"),
    "parameter and header": (bearer(GOOD), f"access_token={FORGED}"),
    "header and parameter": (bearer(FORGED), f"access_token={GOOD}"),
    "parameter, empty": ([], "access_token="),
    "parameter without value": ([], "access_token"),
    "parameter with a plus": ([], f"access_token={GOOD}+x"),
    "own parameter": ([], f"t={GOOD}"),
    "own parameter twice": ([], f"t={GOOD}&t={FORGED}"),
    "cookie": ([("cookie", f"a=b; c={GOOD}")], ""),
    "cookie twice": ([("cookie", f"c={GOOD}; c={FORGED}")], ""),
    "cookie twice, turned": ([("cookie", f"c={FORGED}; c={GOOD}")], ""),
    "two cookie lines": ([("cookie", f"c={GOOD}"), ("cookie", f"c={FORGED}")], ""),
    "two cookie lines, turned": ([("cookie", f"c={FORGED}"), ("cookie", f"c={GOOD}")], ""),
    "quoted cookie": ([("cookie", f'c="{GOOD}"')], ""),
    "cookie, empty": ([("cookie", "c=")], ""),
    "cookie and header": ([("cookie", f"c={FORGED}"), *bearer(GOOD)], ""),
    "cookie and parameter": ([("cookie", f"c={GOOD}")], f"t={FORGED}"),
    "everywhere": ([("x-jwt", GOOD), ("cookie", f"c={GOOD}"), *bearer(GOOD)], f"t={GOOD}&access_token={GOOD}"),
}


def asked(folder: Path, filters: list[dict[str, Any]], requests: list[tuple[str, Headers]]) -> list[list[Any]]:
    """What each side answers: status, body and challenge, and the tokens that the application got."""
    seen = []
    for name in SERVER_SUBJECTS:
        (folder / name).mkdir()
        with running_server(name, folder / name, filters) as subject:
            answers = []
            for path, headers in requests:
                answer: httpx.Response = subject.send(path, headers=headers)
                challenge = answer.headers.get("www-authenticate", "").replace(str(subject.port), "PORT")
                answers.append((answer.status_code, answer.text, challenge))
            seen.append(answers)
    return seen


def test_tokens_are_looked_for_and_counted_as_envoy_does(tmp_path: Path) -> None:
    cases = [(requirement, sent) for requirement in REQUIREMENTS for sent in SENT]
    requests = [
        (f"/{requirement}" + (f"?{SENT[sent][1]}" if SENT[sent][1] else ""), SENT[sent][0])
        for requirement, sent in cases
    ]
    envoys, ours = asked(tmp_path, [checks(PROVIDERS, REQUIREMENTS)], requests)
    different = {
        case: (theirs[:2], own[:2])
        for case, theirs, own in zip(cases, envoys, ours, strict=True)
        if not _is_alike(*case, theirs, own)
    }
    assert not different, "\n".join(f"{case}: {answers}" for case, answers in different.items())
    assert {answer[0] for answer in ours} == {200, 401, 403}


def _is_alike(requirement: str, sent: str, theirs: Any, own: Any) -> bool:
    """The same; or refused here, where Envoy looks over what stands in a token or behind it, or at none at all."""
    if theirs == own:
        return True
    is_refused = own[0] == 401
    if sent in ODD_BASE64 or (theirs[0] == 401 and own[1].endswith("is an invalid Base64url encoded")):
        return is_refused
    return is_refused and requirement == "any-of-all-missing"


# Envoy's base64url takes white space, and characters that come to less than a byte.
ODD_BASE64 = ("a space behind", "a tab behind", "plain with a space", "good one, tampered two")


@pytest.mark.parametrize(
    "sent", ["good, then forged", "forged, then good", "a list", "a list with a space", "a list without prefix"]
)
def test_the_first_of_several_tokens_is_never_taken_for_all(tmp_path: Path, sent: str) -> None:
    envoys, ours = asked(tmp_path, [checks(PROVIDERS, {"one": ONE})], [("/one", SENT[sent][0])])
    assert (envoys[0][0], ours[0][0]) == (401, 401)


# Queries in which TOKEN is one. Envoy sorts what is left by name, and has each name followed by its sign.
QUERIES = (
    "z&TOKEN&a",
    "b=2&TOKEN&a=1&b=1",
    "TOKEN",
    "TOKEN&",
    "TOKEN&&",
    "&TOKEN",
    "TOKEN&&a",
    "=x&TOKEN",
    "a=1=2&TOKEN",
    "x=1&TOKEN&x=2&w&x",
    "A=1&a=2&TOKEN&_=3",
    "a=%41%7e%2D%5f&TOKEN&%61=2&B%42",
    "a=%2&TOKEN&b=%zz",
    "?a&TOKEN",
    "TOKEN&TOKEN",
    "a=+/?;:@!$'()*,&TOKEN",
)
# Envoy resolves these, and writes them as they are.
ESCAPES = ("a=%26admin=1", "a=%3D", "a=%20", "a=%0d%0ax-user:%20admin", "a=%00", "a=%2525", "a=%C3%A9")


def test_the_rest_of_a_query_is_written_as_envoy_writes_it(tmp_path: Path) -> None:
    seen = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "-"}},
        "response_headers_to_add": [{"header": {"key": "x-seen", "value": "%REQ(:path)%"}}],
    }
    filters = [checks({"one": provider("one", forward=False, from_params=["t"])}, {"one": ONE})]
    sides = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        with running_server(name, tmp_path / name, filters, routes=[seen]) as subject:
            asked_queries = [*QUERIES, *(f"{one}&TOKEN" for one in ESCAPES if name == "meshsdk")]
            targets = [f"/one?{query}".replace("TOKEN", f"t={GOOD}") for query in asked_queries]
            sides.append([subject.send(target).headers.get("x-seen") for target in targets])
    envoys, ours = sides
    assert dict(zip(QUERIES, ours, strict=False)) == dict(zip(QUERIES, envoys, strict=True))
    assert ours[len(QUERIES) :] == [f"/one?{query}" for query in ESCAPES]


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"") -> bytes:
    return b'{"iss": "one", "x": ' + opening * depth + inner + closing * depth + b"}"


# Payloads, whose signature is good.
PAYLOADS: dict[str, bytes] = {
    "plain": b'{"iss": "one", "sub": "a"}',
    "a claim twice": b'{"iss": "one", "sub": "a", "sub": "b"}',
    "a claim twice, the same": b'{"iss": "one", "sub": "a", "sub": "a"}',
    "a claim twice, escaped": b'{"iss": "one", "sub": "a", "s\\u0075b": "b"}',
    "an inner claim twice": b'{"iss": "one", "x": {"a": 1, "a": 2}}',
    "issuer twice": b'{"iss": "one", "iss": "one"}',
    "expiry twice": b'{"iss": "one", "exp": 99999999999, "exp": 1}',
    "nested 50": nested(50),
    "nested 90": nested(90),
    **{f"nested {depth}": nested(depth) for depth in range(95, 103)},
    "nested 300": nested(300),
    "nested 900": nested(900),
    "nested 5000": nested(5000),
    "nested 300 objects": nested(300, b'{"a":', b"}", b"1"),
    "brackets in a text": b'{"iss": "one", "x": "' + b"[{" * 300 + b'"}',
    "a quote in a text": b'{"iss": "one", "x": "\\"' + b"[{" * 300 + b'"}',
    "not UTF-8": b'{"iss": "one", "x": "\xff"}',
    "UTF-16": '{"iss": "one"}'.encode("utf-16"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"iss": "one"}',
    "half a pair": b'{"iss": "one", "x": "\\ud800"}',
    "NaN": b'{"iss": "one", "x": NaN}',
    "a number without end": b'{"iss": "one", "exp": 1e999}',
    "a long number": b'{"iss": "one", "x": ' + b"9" * 5000 + b"}",
    "behind the end": b'{"iss": "one"} {"iss": "two"}',
    "a comment": b'{"iss": "one" /* x */}',
    "a comma too many": b'{"iss": "one",}',
    "single quotes": b"{'iss': 'one'}",
    "a control character": b'{"iss": "one", "x": "\x01"}',
    "NUL": b'{"iss": "one", "x": "a\\u0000b"}',
    "an array": b"[]",
    "empty": b"{}",
    "null": b"null",
    "issuer is null": b'{"iss": null}',
    "times as text": b'{"iss": "one", "exp": "99999999999"}',
    "a list of audiences with a number": b'{"iss": "one", "aud": ["a", 5]}',
}
# Envoy takes these, or says something else of them, though they are no JSON, or no object.
_STRICTER = {"a comma too many", "single quotes", "a control character", "null"}

TOKEN_HEADERS: dict[str, bytes] = {
    "an algorithm twice": b'{"alg": "none", "alg": "RS256", "kid": "k1"}',
    "a key twice": b'{"alg": "RS256", "kid": "k9", "kid": "k1"}',
    "nested": b'{"alg": "RS256", "kid": "k1", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    "not UTF-8": b'{"alg": "RS256", "kid": "k1", "x": "\xff"}',
    "crit": b'{"alg": "RS256", "kid": "k1", "crit": ["x"], "x": 1}',
}


def test_what_is_no_json_to_envoy_is_none_to_us(tmp_path: Path) -> None:
    tokens = {name: signed_text(payload) for name, payload in PAYLOADS.items()}
    tokens |= {f"header: {name}": signed_text(b'{"iss": "one"}', header) for name, header in TOKEN_HEADERS.items()}
    requests = [("/one", bearer(token)) for token in tokens.values()]
    envoys, ours = asked(tmp_path, [checks(PROVIDERS, {"one": ONE})], requests)
    different = {
        name: (theirs[:2], own[:2])
        for name, theirs, own in zip(tokens, envoys, ours, strict=True)
        if theirs != own and (name not in _STRICTER or own[0] != 401)
    }
    assert not different, "\n".join(f"{name}: {answers}" for name, answers in different.items())
    assert ours[0][0] == 200


def test_keys_that_are_no_json_check_no_token(tmp_path: Path) -> None:
    now = int(time.time())
    token = bearer(signed({"iss": "one", "exp": now + 600}))
    keys = json.dumps(ISSUERS["one"])
    texts = {
        "good": keys,
        "nested": keys[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}",
        "twice": keys[:-1] + ', "keys": []}',
    }
    for name, text in texts.items():
        jwks = {"one": {"issuer": "one", "local_jwks": {"inline_string": text}}}
        (tmp_path / name).mkdir()
        with running_server("meshsdk", tmp_path / name, [checks(jwks, {"one": ONE})]) as subject:
            assert (subject.send("/one", headers=token).status_code == 200) is (name == "good")


# Headers that Envoy holds as one value, and others.
TWICE = (
    "accept accept-encoding accept-language access-control-request-headers access-control-request-method authorization"
    " cache-control content-encoding content-type cookie dnt expect-ct forwarded from grpc-accept-encoding if-match"
    " if-modified-since if-none-match if-range if-unmodified-since origin pragma priority range referer sec-fetch-site"
    " user-agent via warning x-client-trace-id x-envoy-original-path x-forwarded-for x-forwarded-host x-forwarded-port"
    " x-real-ip x-request-id traceparent x-custom"
).split()


def test_a_header_that_stands_twice_is_one_value_where_envoy_makes_it_one(tmp_path: Path) -> None:
    routes = [
        {
            "match": {"path": f"/{name}"},
            "direct_response": {"status": 200, "body": {"inline_string": "-"}},
            "response_headers_to_add": [{"header": {"key": "x-seen", "value": f"[%REQ({name})%]"}}],
        }
        for name in TWICE
    ]
    seen = []
    for side in SERVER_SUBJECTS:
        (tmp_path / side).mkdir()
        with running_server(side, tmp_path / side, [], routes=routes) as subject:
            seen.append(
                {
                    (name, values): subject.send(f"/{name}", headers=[(name, value) for value in values]).headers[
                        "x-seen"
                    ]
                    for name in TWICE
                    for values in (("a", "b"), ("a", ""), ("", "b"))
                }
            )
    assert seen[0] == seen[1]
