"""The client that does the same in less, request by request against the library's own."""

from __future__ import annotations

import asyncio
import gzip
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.http import front, internals
from meshsdk.http.library import Library
from meshsdk.http.of_httpx import HTTPX
from meshsdk.httpx2 import HTTPX2
from tests.conftest import service
from tests.servers import EchoServer

BASE = "http://shop.example"


class Answering:
    """A transport that answers by the path, and remembers what it was given."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.requests: list[Any] = []

    def transport(self, *, is_async: bool) -> Any:
        """For a client of one kind."""
        outer, library = self, self._library

        class Sync(library.BaseTransport):  # type: ignore[misc, name-defined]
            def handle_request(self, request: Any) -> Any:
                return outer.answer(request, is_async=False)

        class Async(library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
            async def handle_async_request(self, request: Any) -> Any:
                return outer.answer(request, is_async=True)

        return Async() if is_async else Sync()

    def answer(self, request: Any, *, is_async: bool) -> Any:
        library = self._library
        self.requests.append(request)

        def make(status: int, *headers: tuple[str, str], body: bytes = b"body", stream: Any = None) -> Any:
            return library.Response(status, headers=headers, stream=stream or library.ByteStream(body))

        match request.url.path:
            case "/redirect":
                return make(302, ("location", "/there"), ("set-cookie", "went=1"))
            case "/loop":
                return make(307, ("location", "/loop"))
            case "/bad-redirect":
                return make(302, ("location", "https://\x1b/"))
            case "/elsewhere":
                return make(301, ("location", "https://other.example/"))
            case "/cookie":
                return make(200, ("set-cookie", "a=b; path=/"), ("Set-Cookie", "c=d"))
            case "/gzip":
                return make(200, ("content-encoding", "gzip"), body=gzip.compress(b"unpacked" * 9))
            case "/bad-gzip":
                return make(200, ("content-encoding", "gzip"), body=b"no gzip")
            case "/latin":
                return make(200, ("content-type", "text/plain"), body="é".encode("latin-1"))
            case "/stream":
                return make(200, stream=_Chunks(library, is_async))
            case "/missing":
                return make(404, ("Content-Type", "text/plain"), body=b"")
            case "/away":
                raise library.ConnectError("nobody is there")
        return make(200, ("X-One", "1"), ("x-one", "2"))


def _Chunks(library: Any, is_async: bool) -> Any:
    class Sync(library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"one", b"two")

    class Async(library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            for chunk in (b"one", b"two"):
                yield chunk

    return Async() if is_async else Sync()


def seen(request: Any) -> Any:
    """All that is to be seen of a request."""
    try:
        content = request.content
    except Exception as error:  # noqa: BLE001 - A stream that nobody has read.
        content = type(error).__name__
    return (
        request.method,
        str(request.url),
        type(request.url),
        request.headers.raw,
        request.headers.encoding,
        content,
        request.extensions,
        sorted(set(vars(request)) - {"_content"}),
    )


def told(response: Any) -> Any:
    """All that is to be seen of a response that was read."""
    return (
        response.status_code,
        response.headers.raw,
        response.content,
        response.text,
        response.encoding,
        response.is_closed,
        response.is_stream_consumed,
        response.num_bytes_downloaded,
        response.elapsed.total_seconds() >= 0,
        [seen(one.request) for one in (*response.history, response)],
        [one.status_code for one in response.history],
        response.next_request and seen(response.next_request),
        pickle.loads(pickle.dumps(response)).content,
        response.extensions,
        [*response.iter_bytes()],
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "headers": {"headers": {"X-Own": "own", "accept": "application/json"}},
    "header twice": {"headers": [("X-Own", "1"), ("x-own", "2")]},
    "host": {"headers": {"Host": "host.example"}},
    "content-type": {"headers": {"Content-Type": "text/own"}},
    "content-length": {"headers": {"Content-Length": "4"}},
    "latin headers": {"headers": {"x-own": "é".encode("latin-1")}},
    "base_url": {"base_url": f"{BASE}/base/"},
    "cookies": {"cookies": {"own": "1"}},
    "params": {"params": {"own": "1"}},
    "auth": {"auth": ("user", "password")},
    "timeout": {"timeout": 3.0},
    "no timeout": {"timeout": None},
    "follow": {"follow_redirects": True},
    "follow few": {"follow_redirects": True, "max_redirects": 1},
    "follow none": {"follow_redirects": True, "max_redirects": 0},
    "no redirects": {"max_redirects": -1},
    "encoding": {"default_encoding": "latin-1"},
}

CALLS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "get": ("GET", f"{BASE}/", {}),
    "get lower": ("get", f"{BASE}/", {}),
    "head": ("HEAD", f"{BASE}/", {}),
    "unknown method": ("PURGE", f"{BASE}/", {}),
    "wrong method": (7, f"{BASE}/", {}),  # type: ignore[dict-item]
    "query and fragment": ("GET", f"{BASE}/a b/%7e?x=ü#part", {}),
    "international": ("GET", "http://bücher.example/", {}),
    "port": ("GET", "http://shop.example:80/", {}),
    "other port": ("GET", "http://shop.example:8080/", {}),
    "user": ("GET", "http://user:word@shop.example/", {}),
    "relative": ("GET", "relative/path", {}),
    "absolute path": ("GET", "/path", {}),
    "invalid": ("GET", "http://shop.example:port/", {}),
    "no url": ("GET", None, {}),
    "url object": ("GET", "URL", {}),
    "headers": ("GET", f"{BASE}/", {"headers": {"X-Given": "1", "x-given": "2", "X-OWN": "given", "Accept": "*/*"}}),
    "header list": ("GET", f"{BASE}/", {"headers": [("x-given", "1"), ("x-given", "2")]}),
    "header bytes": ("GET", f"{BASE}/", {"headers": {b"x-given": b"1"}}),
    "header umlaut": ("GET", f"{BASE}/", {"headers": {"x-given": "ü"}}),
    "header number": ("GET", f"{BASE}/", {"headers": {"x-given": 1}}),
    "header host": ("GET", f"{BASE}/", {"headers": {"HOST": "given.example"}}),
    "header cookie": ("GET", f"{BASE}/", {"headers": {"Cookie": "given=1"}}),
    "header length": ("POST", f"{BASE}/", {"headers": {"content-length": "4"}, "content": b"four"}),
    "header encoding": ("POST", f"{BASE}/", {"headers": {"transfer-encoding": "chunked"}, "content": b"four"}),
    "post nothing": ("POST", f"{BASE}/", {}),
    "post bytes": ("POST", f"{BASE}/", {"content": b"bytes"}),
    "post text": ("POST", f"{BASE}/", {"content": "tüxt", "headers": {"content-type": "text/plain"}}),
    "post empty": ("POST", f"{BASE}/", {"content": b""}),
    "delete bytes": ("DELETE", f"{BASE}/", {"content": b"bytes"}),
    "get empty": ("GET", f"{BASE}/", {"content": ""}),
    "post array": ("POST", f"{BASE}/", {"content": bytearray(b"bytes")}),
    "post json": ("POST", f"{BASE}/", {"json": {"ä": [1, None, 2.5]}}),
    "post json none": ("POST", f"{BASE}/", {"json": None}),
    "post json false": ("PUT", f"{BASE}/", {"json": False}),
    "post json typed": ("POST", f"{BASE}/", {"json": [], "headers": {"Content-Type": "application/x"}}),
    "post json and bytes": ("POST", f"{BASE}/", {"json": [], "content": b"bytes"}),
    "post no json": ("POST", f"{BASE}/", {"json": float("nan")}),
    "post form": ("POST", f"{BASE}/", {"data": {"a": ["1", "2"]}}),
    "post empty form": ("POST", f"{BASE}/", {"data": {}}),
    "params": ("GET", f"{BASE}/?a=1", {"params": {"b": "2"}}),
    "no params": ("GET", f"{BASE}/?a=1", {"params": {}}),
    "auth": ("GET", f"{BASE}/", {"auth": ("a", "b")}),
    "no auth": ("GET", f"{BASE}/", {"auth": None}),
    "timeout": ("GET", f"{BASE}/", {"timeout": 1}),
    "no timeout": ("GET", f"{BASE}/", {"timeout": None}),
    "timeout of four": ("GET", f"{BASE}/", {"timeout": (1, 2, 3, 4)}),
    "extensions": ("GET", f"{BASE}/", {"extensions": {"own": 1}}),
    "extensions with a timeout": ("GET", f"{BASE}/", {"extensions": {"timeout": {"read": 1}}, "timeout": 7}),
    "redirect": ("GET", f"{BASE}/redirect", {}),
    "redirect with a body": ("POST", f"{BASE}/redirect", {"content": b"body"}),
    "redirect followed": ("GET", f"{BASE}/redirect", {"follow_redirects": True}),
    "redirect not followed": ("GET", f"{BASE}/redirect", {"follow_redirects": False}),
    "redirect elsewhere": ("GET", f"{BASE}/elsewhere", {"headers": {"authorization": "a"}, "follow_redirects": True}),
    "redirect loop": ("PUT", f"{BASE}/loop", {"json": {}}),
    "bad redirect": ("GET", f"{BASE}/bad-redirect", {}),
    "bad redirect followed": ("GET", f"{BASE}/bad-redirect", {"follow_redirects": True}),
    "cookie": ("GET", f"{BASE}/cookie", {}),
    "gzip": ("GET", f"{BASE}/gzip", {}),
    "bad gzip": ("GET", f"{BASE}/bad-gzip", {}),
    "latin": ("GET", f"{BASE}/latin", {}),
    "stream": ("GET", f"{BASE}/stream", {}),
    "missing": ("GET", f"{BASE}/missing", {}),
    "error": ("GET", f"{BASE}/away", {}),
}


def outcomes(
    made: Any, library: Any, options: dict[str, Any], call: tuple[str, Any, dict[str, Any]], is_async: bool
) -> Any:
    """What comes of the same call twice, and what is left of it."""
    answering = Answering(library)
    client = made(transport=answering.transport(is_async=is_async), **options)
    method, url, more = call
    url = library.URL(f"{BASE}/object") if url == "URL" else url
    found: list[Any] = []
    for _ in range(2):
        try:
            ask = client.request(method, url, **more)
            found.append(told(asyncio.run(ask) if is_async else ask))
        except Exception as error:  # noqa: BLE001 - Whatever it is must be the same.
            request = getattr(error, "_request", None)
            found.append((type(error), str(error), request and seen(request)))
    cookies = [(one.name, one.value, one.domain, one.path) for one in client.cookies.jar]
    return found, [seen(request) for request in answering.requests], cookies, client._state


@pytest.fixture(params=[HTTPX, HTTPX2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Library:
    """Whose clients have a front."""
    found: Library = request.param
    return found


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_call_is_what_the_library_makes_of_it(
    library: Library, name: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    module = library.module
    own = module.AsyncClient if is_async else module.Client
    ours = library.async_client_class if is_async else library.client_class
    assert issubclass(ours, own)
    assert ours is not own
    caplog.set_level(logging.INFO)
    for options in OPTIONS.values():
        logs = []
        found = []
        for made in (own, ours):
            caplog.clear()
            found.append(outcomes(made, module, options, CALLS[name], is_async))
            logs.append(caplog.record_tuples)
        assert found[1] == found[0], options
        assert logs[1] == logs[0], options


PLAIN = [
    "get",
    "query and fragment",
    "headers",
    "post nothing",
    "post bytes",
    "post text",
    "post json",
    "timeout",
    "extensions",
    "redirect elsewhere",
    "gzip",
    "stream",
    "error",
]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_is_usual_does_not_go_the_librarys_way(
    library: Library, name: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = library.async_client_class if is_async else library.client_class

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the library's own way")

    stand_in = type("Own", (), {"build_request": refuse, "send": refuse})
    monkeypatch.setattr(internals.Methods, "are_of", lambda self, client: True)
    monkeypatch.setattr(made, "_own", stand_in)
    found, requests, _, _ = outcomes(made, library.module, {}, CALLS[name], is_async)
    assert len(requests) == 2 * (2 if "redirect" in name else 1)
    assert not any(AssertionError in one for one in found)


@pytest.mark.parametrize("where", ["class", "subclass", "instance"])
@pytest.mark.parametrize("name", [*internals.BUILT_BY[1:], *internals.SENT_BY[1:]])
def test_what_somebody_puts_in_place_of_a_method_is_called(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    own, ours = library.module.Client, library.client_class
    called: list[str] = []
    original = getattr(own, name)

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        called.append(name)
        return original(self, *arguments, **options)

    if where == "subclass":
        ours = type("Sub", (ours,), {name: watched})
    client = ours(transport=Answering(library.module).transport(is_async=False))
    client.get(f"{BASE}/")
    called.clear()
    if where == "class":
        monkeypatch.setattr(own, name, watched)
    elif where == "instance":
        monkeypatch.setattr(client, name, watched.__get__(client))
    client.get(f"{BASE}/")
    assert called


@pytest.mark.parametrize("name", [internals.BUILT_BY[0], internals.SENT_BY[0]])
def test_a_replaced_method_that_is_watched_is_called(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = library.module.Client
    client = library.client_class(transport=Answering(library.module).transport(is_async=False))
    called: list[str] = []
    original = getattr(own, name)

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        called.append(name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(own, name, watched)
    assert client.get(f"{BASE}/").status_code == 200
    assert called == [name]


def test_changes_of_a_client_count_at_once(library: Library) -> None:
    answering = Answering(library.module)
    client = library.client_class(transport=answering.transport(is_async=False), base_url=f"{BASE}/one")

    def ask() -> Any:
        client.get("x", headers={"x-given": "1"})
        return answering.requests[-1]

    ask()
    client.headers["x-own"] = "1"
    assert ask().headers["x-own"] == "1"
    client.headers["x-given"] = "0"
    assert ask().headers.get_list("x-given") == ["1"]
    del client.headers["x-own"]
    assert "x-own" not in ask().headers
    client.base_url = f"{BASE}/two"
    assert ask().url.path == "/two/x"
    client.cookies.set("a", "b")
    assert ask().headers["cookie"] == "a=b"
    client.cookies.clear()
    assert "cookie" not in ask().headers
    client.params = {"q": "1"}
    assert ask().url.query == b"q=1"
    client.params = {}
    client.timeout = 9
    assert ask().extensions["timeout"]["read"] == 9
    client.auth = ("a", "b")
    assert "authorization" in ask().headers
    client.auth = None
    hooked: list[Any] = []
    client.event_hooks = {"request": [hooked.append], "response": [hooked.append]}
    ask()
    assert len(hooked) == 2
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        ask()


def test_a_request_that_is_sent_again_is_sent_as_it_is(library: Library) -> None:
    answering = Answering(library.module)
    client = library.client_class(transport=answering.transport(is_async=False))
    request = client.build_request("POST", f"{BASE}/", json={"a": 1})
    request.headers["x-late"] = "1"
    request.url = library.module.URL(f"{BASE}/late")
    assert client.send(request).request is request
    assert seen(answering.requests[0])[1] == f"{BASE}/late"
    bare = library.module.Request("GET", f"{BASE}/")
    client.send(bare)
    assert "timeout" in answering.requests[1].extensions


def test_urls_are_not_kept_without_end(library: Library, tmp_path: Path) -> None:
    with meshsdk.Mesh(config=tmp_path) as mesh, mesh.client() as client:
        for number in range(3000):
            client.build_request("GET", f"{BASE}/{number}")
        assert 0 < len(client._front_urls[1]) <= front._MAX_URLS
        assert 0 < len(client._transport._dispatcher._known_urls._by_id) <= front._MAX_URLS


def test_a_release_that_is_not_known_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(internals, "_PROVEN", {})
    other = Library(httpx, {})
    assert (other.client_class, other.async_client_class) == (httpx.Client, httpx.AsyncClient)
    response = other.response(200, [(b"a", b"b")], httpx.ByteStream(b"c"), {"d": 1})
    assert (response.read(), response.headers["a"], response.extensions) == (b"c", "b", {"d": 1})


def test_a_library_that_is_watched_from_its_beginning_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    original = httpx.Client.send
    monkeypatch.setattr(httpx.Client, "send", lambda self, *a, **k: original(self, *a, **k))
    assert Library(httpx, {}).client_class is httpx.Client


@pytest.mark.parametrize("fast", [True, False])
def test_one_keyword_switches_the_front_off(make_mesh: Any, echo: Any, fast: bool) -> None:
    server: EchoServer = echo("echo")
    mesh = make_mesh(service("echo", server.port))
    with mesh.client(fast=fast) as client:
        assert isinstance(client, httpx.Client)
        assert (type(client) is httpx.Client) is not fast
        assert client.post("http://echo/x", json={"a": 1}).json()["body"] in ('{"a":1}', '{"a": 1}')

    async def run() -> None:
        async with mesh.async_client(fast=fast) as client:
            assert isinstance(client, httpx.AsyncClient)
            assert (type(client) is httpx.AsyncClient) is not fast
            assert (await client.get("http://echo/x")).json()["path"] == "/x"

    asyncio.run(run())
