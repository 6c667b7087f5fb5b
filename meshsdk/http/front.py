"""A client that does what its library does in less: URLs are parsed once, headers merged as long as they stay the same,
and what cannot have changed is not walked again.

It is the library's own client in every respect, and a request that has anything unusual about it goes the library's
own way: authentication, hooks, mounts, parameters, cookies, forms, files, streams, and whatever somebody has put in
place of one of the library's methods. What is left is that a method, a URL, headers, bytes or JSON, and a timeout make
a request, and that a response is read whole. `tests/http/test_front.py` compares it with the library, call by call.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from functools import wraps
from typing import Any, ClassVar

from .internals import BUILT_BY, SENT_BY, Internals, Methods

__all__ = ["AsyncFront", "SyncFront", "make_front"]

Field = tuple[bytes, bytes, bytes]

# Stands for the library's own way to say that an argument is not given.
_UNSET: Any = object()

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH"})
_HAVE_LENGTH = frozenset({"POST", "PUT", "PATCH"})
_NO_LENGTH: Field = (b"Content-Length", b"content-length", b"0")

# Headers that a request has by itself, unless somebody gives them.
_OF_THE_REQUEST = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"cookie"})

# Headers of a response that say that there is more to do than to read it.
_TELLING = frozenset({b"set-cookie", b"set-cookie2", b"location", b"content-encoding"})

# URLs that are kept; a crawler must not grow memory without bound.
_MAX_URLS = 1024


class _Url:
    """A URL as the client sends it, and its Host."""

    __slots__ = ("host", "url")

    def __init__(self, url: Any) -> None:
        self.url = url
        self.host: Field = (b"Host", b"host", url.netloc)


class _Front:
    """What clients of both kinds do alike."""

    _own: ClassVar[Any]
    _internals: ClassVar[Internals]
    _built_by: ClassVar[Methods]
    _sent_by: ClassVar[Methods]

    def _begin_front(self: Any) -> None:
        """Called once, when the client is made."""
        # Each is replaced as a whole, since threads share a client: the URLs of a base_url, and the client's headers
        # with their names, and whether a request may go by them.
        self._front_urls: tuple[Any, dict[str, _Url]] = (self._base_url, {})
        self._front_own: tuple[list[Field], frozenset[bytes], bool] = ([], frozenset(), True)
        self._front_jar = type(self._cookies.jar)

    def build_request(
        self: Any,
        method: Any,
        url: Any,
        *,
        content: Any = None,
        data: Any = None,
        files: Any = None,
        json: Any = None,
        params: Any = None,
        headers: Any = None,
        cookies: Any = None,
        timeout: Any = _UNSET,
        extensions: Any = None,
    ) -> Any:
        """As the library's."""
        request = None
        if data is None and files is None and params is None and cookies is None:
            request = self._build_plain(method, url, content, json, headers, timeout, extensions)
        if request is not None:
            return request
        options = {} if timeout is _UNSET else {"timeout": timeout}
        return self._own.build_request(
            self,
            method,
            url,
            content=content,
            data=data,
            files=files,
            json=json,
            params=params,
            headers=headers,
            cookies=cookies,
            extensions=extensions,
            **options,
        )

    def _build_plain(
        self: Any, method: Any, url: Any, content: Any, json: Any, headers: Any, timeout: Any, extensions: Any
    ) -> Any:
        """A request of what is usual; None where something is not."""
        internals: Internals = self._internals
        if (
            method not in _METHODS
            or self._params._dict
            or self._has_cookies()
            or (content is not None and type(content) is not bytes and type(content) is not str)
            or (extensions is not None and "timeout" in extensions)
            or not self._built_by.are_of(self)
        ):
            return None
        base, urls = self._front_urls
        known = urls.get(url) if type(url) is str and self._base_url is base else None
        if known is None:
            known = self._learn(url)
            if known is None:
                return None
        fields = self._fields(known.host, headers, has_type=json is not None and content is None)
        if fields is None:
            return None
        module = internals.module
        request = module.Request.__new__(module.Request)
        request.method, request.url = method, known.url
        self._add_body(request, fields, content, json)
        request.headers = internals.headers(fields)
        if timeout is _UNSET or type(timeout) is internals.client.UseClientDefault:
            limits = self._timeout
        else:
            limits = module.Timeout(timeout)
        request.extensions = {} if extensions is None else dict(extensions)
        request.extensions["timeout"] = limits.as_dict()
        return request

    def _has_cookies(self: Any) -> bool:
        """Whether there are cookies, as far as that is known of the jar."""
        jar = self._cookies.jar
        return type(jar) is not self._front_jar or bool(jar._cookies)

    def _learn(self: Any, url: Any) -> _Url | None:
        """A URL that is seen for the first time; None where it is none to keep."""
        if type(url) is not str and type(url) is not self._internals.module.URL:
            return None
        base, (kept_base, urls) = self._base_url, self._front_urls
        merged = self._merge_url(url)
        if merged.userinfo or not merged.host:
            return None
        known = _Url(merged)
        if type(url) is str:
            if base is not kept_base or len(urls) >= _MAX_URLS:
                urls = {}  # Another thread may be reading the old one.
                self._front_urls = (base, urls)
            if base is self._base_url:
                urls[url] = known
            remember = getattr(self._transport, "remember", None)
            if remember is not None:
                remember(merged)
        return known

    def _fields(self: Any, host: Field, headers: Any, *, has_type: bool) -> list[Field] | None:
        """Host, the client's headers and the request's; None where one of them is there already, or is no text."""
        own: list[Field] = self._headers._list
        fields, own_names, is_plain = self._front_own
        if own != fields:
            own = list(own)
            own_names = frozenset(name for _, name, _ in own)
            is_plain = own_names.isdisjoint(_OF_THE_REQUEST)
            self._front_own = (own, own_names, is_plain)
        if not is_plain:
            return None
        if headers is None:
            return [host, *own]
        if type(headers) is not dict:
            return None
        given: list[Field] = []
        try:
            for name, value in headers.items():
                raw = name.encode("ascii")
                given.append((raw, raw.lower(), value.encode("ascii")))
        except (AttributeError, UnicodeError):
            return None
        names = {name for _, name, _ in given}
        if not names.isdisjoint(_OF_THE_REQUEST) and (has_type or names & _OF_THE_REQUEST != {b"content-type"}):
            return None
        if not names.isdisjoint(own_names):
            own = [field for field in own if field[1] not in names]
        return [host, *own, *given]

    def _add_body(self: Any, request: Any, fields: list[Field], content: Any, json: Any) -> None:
        """The body in memory, and the headers that say what it is."""
        told: dict[str, str] = {}
        if content is None and json is None:
            request.stream = stream = self._internals.module.ByteStream(b"")
        else:
            told, stream = self._internals.content.encode_request(content=content, json=json)
            request.stream = stream
        request._content = stream._stream
        if told:
            fields += [
                (name.encode("ascii"), name.lower().encode("ascii"), told[name].encode("ascii")) for name in told
            ]
        elif request.method in _HAVE_LENGTH:
            fields.insert(1, _NO_LENGTH)

    def _may_send_plainly(self: Any, request: Any, auth: Any) -> bool:
        """Whether sending a request is no more than to give it to the transport."""
        hooks, client, url = self._event_hooks, self._internals.client, request.url._uri_reference
        return (
            type(auth) is client.UseClientDefault
            and self._auth is None
            and not self._mounts
            and not hooks["request"]
            and not hooks["response"]
            and self._state is not client.ClientState.CLOSED
            and self.max_redirects >= 0
            and not url.userinfo
            and bool(url.scheme)
            and "timeout" in request.extensions
            and self._sent_by.are_of(self)
        )

    def _tell(self: Any, request: Any, response: Any, *, has_cookies: bool) -> None:
        """Keep cookies, and tell who listens."""
        if has_cookies:
            self._cookies.extract_cookies(response)
        logger = self._internals.logger
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                'HTTP Request: %s %s "%s %d %s"',
                request.method,
                request.url,
                response.http_version,
                response.status_code,
                response.reason_phrase,
            )

    def _read_at_once(self: Any, response: Any, start: float) -> bool:
        """Take a body that has come whole, and that nothing was done to; False where it must be read."""
        stream = response.stream
        if type(stream) is not self._internals.module.ByteStream:
            return False
        content: bytes = stream._stream
        response._content = content
        response._num_bytes_downloaded = len(content)
        response.is_stream_consumed = response.is_closed = True
        response._elapsed = datetime.timedelta(seconds=time.perf_counter() - start)
        return True

    def _follows(self: Any, follow_redirects: Any) -> bool:
        is_default = type(follow_redirects) is self._internals.client.UseClientDefault
        return bool(self.follow_redirects if is_default else follow_redirects)


class SyncFront(_Front):
    """`httpx.Client`, or its like."""

    def send(
        self: Any, request: Any, *, stream: bool = False, auth: Any = _UNSET, follow_redirects: Any = _UNSET
    ) -> Any:
        """As the library's."""
        internals: Internals = self._internals
        default = internals.client.USE_CLIENT_DEFAULT
        auth = default if auth is _UNSET else auth
        follow_redirects = default if follow_redirects is _UNSET else follow_redirects
        module = internals.module
        if not self._may_send_plainly(request, auth) or not isinstance(request.stream, module.SyncByteStream):
            return self._own.send(self, request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        self._state = internals.client.ClientState.OPENED
        start = time.perf_counter()
        try:
            response = self._transport.handle_request(request)
        except module.RequestError as error:
            error.request = request
            raise
        assert isinstance(response.stream, module.SyncByteStream)
        response._request, response.default_encoding = request, self._default_encoding
        is_telling = not _TELLING.isdisjoint([name for _, name, _ in response.headers._list])
        is_read = not is_telling and not stream and self._read_at_once(response, start)
        if not is_read:
            response.stream = internals.sync_stream(response, start)
        self._tell(request, response, has_cookies=is_telling)
        if is_read:
            return response
        if is_telling and response.has_redirect_location:
            response = self._redirected(request, response, self._follows(follow_redirects))
        return response if stream else _read(response)

    def _redirected(self: Any, request: Any, response: Any, follows: bool) -> Any:
        try:
            if follows:
                following = self._build_redirect_request(request, response)
                response.read()
                return self._send_handling_redirects(following, follow_redirects=True, history=[response])
            with contextlib.suppress(*self._internals.suppressed):
                response.next_request = self._build_redirect_request(request, response)
        except BaseException:
            response.close()
            raise
        return response


def _read(response: Any) -> Any:
    try:
        response.read()
    except BaseException:
        response.close()
        raise
    return response


class AsyncFront(_Front):
    """`httpx.AsyncClient`, or its like."""

    async def send(
        self: Any, request: Any, *, stream: bool = False, auth: Any = _UNSET, follow_redirects: Any = _UNSET
    ) -> Any:
        """As the library's."""
        internals: Internals = self._internals
        default = internals.client.USE_CLIENT_DEFAULT
        auth = default if auth is _UNSET else auth
        follow_redirects = default if follow_redirects is _UNSET else follow_redirects
        module = internals.module
        if not self._may_send_plainly(request, auth) or not isinstance(request.stream, module.AsyncByteStream):
            return await self._own.send(self, request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        self._state = internals.client.ClientState.OPENED
        start = time.perf_counter()
        try:
            response = await self._transport.handle_async_request(request)
        except module.RequestError as error:
            error.request = request
            raise
        assert isinstance(response.stream, module.AsyncByteStream)
        response._request, response.default_encoding = request, self._default_encoding
        is_telling = not _TELLING.isdisjoint([name for _, name, _ in response.headers._list])
        is_read = not is_telling and not stream and self._read_at_once(response, start)
        if not is_read:
            response.stream = internals.async_stream(response, start)
        self._tell(request, response, has_cookies=is_telling)
        if is_read:
            return response
        if is_telling and response.has_redirect_location:
            response = await self._redirected(request, response, self._follows(follow_redirects))
        return response if stream else await _aread(response)

    async def _redirected(self: Any, request: Any, response: Any, follows: bool) -> Any:
        try:
            if follows:
                following = self._build_redirect_request(request, response)
                await response.aread()
                return await self._send_handling_redirects(following, follow_redirects=True, history=[response])
            with contextlib.suppress(*self._internals.suppressed):
                response.next_request = self._build_redirect_request(request, response)
        except BaseException:
            await response.aclose()
            raise
        return response


async def _aread(response: Any) -> Any:
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise
    return response


def make_front(internals: Internals | None, kind: type, own: Any) -> Any:
    """A library's client with a front; the library's own where nothing is known of its inside.

    Args:
        internals: Of the library; None is an inside that nothing is known of.
        kind: `SyncFront` or `AsyncFront`.
        own: The library's class.
    """
    if internals is None:
        return own

    @wraps(own.__init__)
    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        own.__init__(self, *arguments, **options)
        self._begin_front()

    inside = {
        "_own": own,
        "_internals": internals,
        "_built_by": Methods(own, BUILT_BY),
        "_sent_by": Methods(own, SENT_BY),
    }
    return type(
        own.__name__, (kind, own), {"__module__": __name__, "__doc__": own.__doc__, "__init__": begin, **inside}
    )
