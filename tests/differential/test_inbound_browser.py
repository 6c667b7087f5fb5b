"""What browsers say of where a request comes from: csrf and cors of the real Envoy, and of meshsdk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .inbound_subjects import SERVER_SUBJECTS, running_server

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_ALWAYS = {"default_value": {"numerator": 100}}
OWN = "own.example"

# Origin and Referer as they are sent; HOST stands for the server's own.
ORIGINS: list[list[tuple[str, str]]] = [
    [],
    [("origin", "http://HOST")],
    [("origin", "https://HOST")],
    [("origin", "http://HOST/")],
    [("origin", "http://HOST/a?b#c")],
    [("origin", "HOST")],
    [("origin", "null")],
    [("origin", "Null")],
    [("origin", "null"), ("referer", "http://HOST/a")],
    [("origin", "null"), ("referer", "http://evil.example/a")],
    [("origin", "")],
    [("origin", ""), ("referer", "http://HOST/a")],
    [("origin", "http://"), ("referer", "http://HOST/a")],
    [("origin", "http:///"), ("referer", "http://HOST/a")],
    [("origin", "http://evil.example"), ("referer", "http://HOST/a")],
    [("origin", "http://evil.example")],
    [("referer", "http://HOST/a")],
    [("referer", "http://evil.example/HOST")],
    [("referer", "HOST")],
    [("referer", "")],
    [("origin", "http://HOST"), ("origin", "http://evil.example")],
    [("origin", "http://evil.example"), ("origin", "http://HOST")],
    [("origin", "http://HOST"), ("origin", "http://HOST")],
    [("origin", "http://HOST"), ("origin", "")],
    [("origin", ""), ("origin", "http://HOST")],
    [("origin", "null"), ("origin", "http://HOST")],
    [("origin", "http://HOST"), ("origin", "null")],
    [("origin", "http://HOST,http://evil.example")],
    [("origin", "http://HOST, http://evil.example")],
    [("origin", "http://HOST http://evil.example")],
    [("origin", "http://evil.example http://HOST")],
    [("referer", "http://HOST/a"), ("referer", "http://evil.example/a")],
    [("referer", "http://evil.example/a"), ("referer", "http://HOST/a")],
    [("origin", "http://user@HOST")],
    [("origin", "http://user:secret@HOST")],
    [("origin", "http://HOST@evil.example")],
    [("origin", "http://evil.example\\@HOST")],
    [("origin", "http:HOST")],
    [("origin", "//HOST")],
    [("origin", "://HOST")],
    [("origin", "ftp://HOST")],
    [("origin", "x://HOST")],
    [("origin", "HTTP://HOST")],
    [("origin", "http://own.example:80")],
    [("origin", "http://allowed.example")],
    [("origin", "http://ALLOWED.example")],
    [("origin", "http://allowed.example:80")],
    [("origin", "https://allowed.example:443")],
    [("origin", "http://allowed.example.evil.example")],
    [("origin", "allowed.example")],
    [("origin", "http://allowed.example"), ("origin", "http://evil.example")],
    [("origin", "http://allowed.example,http://evil.example")],
    [("origin", "http://sub.wild.example")],
    [("origin", "http://evil.example/.wild.example")],
    [("origin", "http://evil.example?.wild.example")],
    [("origin", "http://evil.example#.wild.example")],
    [("origin", "evil.example,x.wild.example")],
    [("origin", "null.wild.example")],
]


def csrf() -> dict[str, Any]:
    config = {
        "@type": f"{_HTTP}.csrf.v3.CsrfPolicy",
        "filter_enabled": _ALWAYS,
        "additional_origins": [{"exact": "allowed.example"}, {"suffix": ".wild.example"}],
    }
    return {"name": "csrf", "typed_config": config}


def _seen(
    folder: Path, filters: list[dict[str, Any]], methods: list[str], more: list[tuple[str, str]], **options: Any
) -> list[dict[Any, Any]]:
    """What each side answers."""
    seen = []
    for name in SERVER_SUBJECTS:
        (folder / name).mkdir()
        answers: dict[Any, Any] = {}
        with running_server(name, folder / name, filters, **options) as subject:
            for host in (f"127.0.0.1:{subject.port}", OWN, f"{OWN}:80"):
                for method in methods:
                    for number, headers in enumerate(ORIGINS):
                        sent = [(key, value.replace("HOST", host)) for key, value in headers]
                        answer = subject.send("/", method, headers=[("host", host), *more, *sent])
                        told = {
                            key: value.replace(str(subject.port), "PORT")
                            for key, value in answer.headers.items()
                            if key.startswith("access-control")
                        }
                        known = host.replace(str(subject.port), "PORT")
                        answers[known, method, number, str(headers)] = (answer.status_code, answer.text, told)
        seen.append(answers)
    return seen


# Envoy looks past the user of a URL, and takes one with a fragment as it is; browsers send neither in an Origin.
_STRICTER = ("@HOST", "#.wild")


def _assert_same(seen: list[dict[Any, Any]]) -> None:
    different = [
        f"{case}: {answer} {seen[1][case]}"
        for case, answer in seen[0].items()
        if answer != seen[1][case] and not (seen[1][case][0] == 403 and any(one in case[3] for one in _STRICTER))
    ]
    assert not different, "\n".join(different)


def test_requests_of_other_origins_are_refused_where_envoy_refuses_them(tmp_path: Path) -> None:
    seen = _seen(tmp_path, [csrf()], ["GET", "POST", "PATCH"], [])
    _assert_same(seen)
    assert {answer[0] for answer in seen[1].values()} == {200, 403}


def test_origins_are_shared_with_where_envoy_shares_with_them(tmp_path: Path) -> None:
    policy = {
        "@type": f"{_HTTP}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [
            {"exact": "http://allowed.example"},
            {"suffix": ".wild.example"},
            {"exact": "null"},
            {"prefix": "http://127.0.0.1"},
        ],
        "allow_methods": "GET",
        "allow_credentials": True,
    }
    cors = {"name": "cors", "typed_config": {"@type": f"{_HTTP}.cors.v3.Cors"}}
    host = {"typed_per_filter_config": {"cors": policy}}
    asks = [("access-control-request-method", "GET")]
    _assert_same(_seen(tmp_path, [cors], ["GET", "OPTIONS"], asks, virtual_host=host))


REFERERS = [
    *"own.example own.example:80 a a:b http: http:/a http:// http://a http://a:b http://a:80/x x://a x1://a".split(),
    *"javascript:alert(1) about:blank /a/b //a ://a a/b:c ?a:b http://[::1]:80/ http://[::1 http://user@a".split(),
    *"android-app://com.x.y/ HTTP://A file:///x 1:2 :80 null * mailto:x@y http://a#b http://a?b#c http://a?b".split(),
    *"http://a:99999 http://a:65535 http://a:65536 http://a:0 http://a:".split(),
    *(text.replace("C", one) for text in ("aCb", "a/Cb", "http://aCb", "http://a/Cb", "C", "Ca://b") for one in
      "!\"#$%&'()*+,-./0:;<=>?@A[\\]^_`a{|}~"),
]  # fmt: skip


def test_a_referer_that_is_no_url_is_taken_away(tmp_path: Path) -> None:
    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        with running_server(name, tmp_path / name, []) as subject:
            for referer in REFERERS:
                assert subject.send("/", headers=[("referer", referer)]).status_code == 200
            subject.send("/", headers=[("referer", "http://a"), ("referer", "http://b")])
            seen.append([received.headers.get("referer") for received in subject.received])
    assert dict(zip([*REFERERS, "twice"], seen[0], strict=True)) == dict(
        zip([*REFERERS, "twice"], seen[1], strict=True)
    )
