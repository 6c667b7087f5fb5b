"""The adapter: a prepared request of requests' becomes one of the mesh's, and the response becomes requests' again."""

from __future__ import annotations

import io
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import HTTPResponse
from urllib3._collections import HTTPHeaderDict

import meshsdk

from .bodies import Head, ReadBody

__all__ = ["MeshAdapter"]

Verify = bool | str | os.PathLike[str] | None
Cert = str | bytes | tuple[str, str] | None


_SEND = HTTPAdapter.send

# A crawler must not grow memory without bound.
_MAX_URLS = 1024


class MeshAdapter(HTTPAdapter):
    """Sends a session's requests where the mesh's configuration says.

    Args:
        mesh: The mesh; it must outlive the adapter.
        http2: Offer HTTP/2 to https hosts that have no TLS settings in the mesh.
    """

    def __init__(self, mesh: meshsdk.Mesh, *, http2: bool = False) -> None:
        super().__init__()
        self._mesh = mesh
        self._http2 = http2
        self._transports: dict[tuple[Any, Any], meshsdk.MeshTransport] = {}
        self._urls: dict[str, httpx.URL] = {}
        self._making = threading.Lock()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Verify = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; called by requests.

        Args:
            request: The request.
            stream: Leave the body to be read later.
            timeout: In seconds, or a pair for connecting and reading.
            verify: For hosts outside the mesh.
            cert: The same.
            proxies: The same.

        Raises:
            requests.RequestException: There is no response.
        """
        if HTTPAdapter.send is not _SEND:
            # Somebody answers in the place of all adapters: `responses`, in a test.
            return super().send(request, stream, timeout, verify, cert, proxies)  # type: ignore[arg-type]
        outside = None
        if proxies and request.url and select_proxy(request.url, proxies):
            outside = _Outside(super().send, request, timeout, verify, cert, proxies)
        try:
            transport = self._transport(verify, cert)
            asked = _asked(request, timeout, self._url(request.url or "", transport))
            answer = transport.handle_request(asked, outside)
            raw = _raw(request, answer)
            response = self.build_response(request, raw)
            response.extensions = answer.extensions  # type: ignore[attr-defined]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failure(error)(error, request=request) from error
        return response

    def close(self) -> None:
        """Close all connections."""
        super().close()
        for transport in self._transports.values():
            transport.close()

    def _url(self, text: str, transport: meshsdk.MeshTransport) -> httpx.URL:
        """A URL, read once."""
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= _MAX_URLS:
                self._urls = {}  # Another thread may be reading the old one.
            url = self._urls[text] = httpx.URL(text)
            transport.remember(url)
        return url

    def _transport(self, verify: Verify, cert: Cert) -> meshsdk.MeshTransport:
        """That for the session's TLS settings, of which there are few."""
        key = (verify, cert)
        transport = self._transports.get(key)
        if transport is not None:
            return transport
        with self._making:
            if key not in self._transports:
                made = meshsdk.MeshTransport(self._mesh, verify=_context(verify, cert), http2=self._http2)
                self._transports[key] = made
            return self._transports[key]


def _context(verify: Verify, cert: Cert) -> ssl.SSLContext | bool:
    if cert is None and isinstance(verify, bool | None):
        return verify is not False
    if not isinstance(verify, bool | None):
        # These roots and no others: without any, the system's would be trusted as well.
        roots = os.fspath(verify)
        is_folder = os.path.isdir(roots)
        context = ssl.create_default_context(cafile=None if is_folder else roots, capath=roots if is_folder else None)
    else:
        context = httpx.create_ssl_context(verify is not False)
    if cert is not None:
        certificate, key = cert if isinstance(cert, tuple) else (cert, None)
        context.load_cert_chain(certificate, key)
    return context


class _Outside(httpx.BaseTransport):
    """requests' own way to a host outside the mesh: by a proxy."""

    def __init__(self, send: Any, request: requests.PreparedRequest, timeout: Any, *tls: Any) -> None:
        self._send = send
        self._arguments = (request, True, timeout, *tls)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response: requests.Response = self._send(*self._arguments)
        return httpx.Response(
            response.status_code,
            headers=[(name, value) for name, value in response.raw.headers.items()],
            stream=_Raw(response),
            extensions={"reason_phrase": (response.reason or "").encode("latin-1")},
        )


class _Raw(httpx.SyncByteStream):
    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.raw.stream(65536, decode_content=False)

    def close(self) -> None:
        self._response.close()


def _asked(request: requests.PreparedRequest, timeout: Any, url: httpx.URL) -> httpx.Request:
    body: Any = request.body
    headers = [(_bytes(name), _bytes(value)) for name, value in request.headers.items()]
    asked = httpx.Request(
        request.method or "GET",
        url,
        headers=headers,
        content=body.encode() if isinstance(body, str) else body,
        # As it is: httpx would write some paths in another way.
        extensions={"timeout": _timeouts(timeout), "target": request.path_url.encode("latin-1")},
    )
    asked.url = url  # This object and not another of the same text: what decisions ask of it is known.
    return asked


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _timeouts(timeout: Any) -> dict[str, float | None]:
    if timeout is None or isinstance(timeout, int | float):
        connect = read = timeout
    elif isinstance(timeout, tuple):
        connect, read = timeout
    else:  # urllib3's.
        connect, read = timeout.connect_timeout, timeout.read_timeout
        connect, read = (value if isinstance(value, int | float) else None for value in (connect, read))
    return {"connect": connect, "read": read, "write": read, "pool": None}


def _raw(request: requests.PreparedRequest, answer: httpx.Response) -> HTTPResponse:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw]
    stream = answer.stream
    assert isinstance(stream, httpx.SyncByteStream)
    return HTTPResponse(
        body=io.BytesIO(b"".join(stream)) if type(stream) is httpx.ByteStream else ReadBody(stream),
        headers=HTTPHeaderDict(headers),
        status=answer.status_code,
        version=11,
        reason=answer.reason_phrase,
        preload_content=False,
        decode_content=False,
        # requests looks for cookies in it, which takes it longer than to see that there are none.
        original_response=Head(headers) if "set-cookie" in answer.headers else None,  # type: ignore[arg-type]
        request_method=request.method,
    )


_FAILURES: tuple[tuple[type[Exception], type[requests.RequestException]], ...] = (
    (httpx.ConnectTimeout, requests.ConnectTimeout),
    (httpx.PoolTimeout, requests.ConnectionError),
    (httpx.TimeoutException, requests.ReadTimeout),
    (httpx.UnsupportedProtocol, requests.exceptions.InvalidSchema),
    (httpx.InvalidURL, requests.exceptions.InvalidURL),
    (httpx.LocalProtocolError, requests.exceptions.InvalidHeader),
)


def _failure(error: Exception) -> type[requests.RequestException]:
    """What requests raises of the same."""
    if isinstance(error, httpx.ConnectError) and isinstance(error.__cause__, ssl.SSLError | meshsdk.PeerIdentityError):
        return requests.exceptions.SSLError
    if isinstance(error, meshsdk.PeerIdentityError):
        return requests.exceptions.SSLError
    return next((theirs for ours, theirs in _FAILURES if isinstance(error, ours)), requests.ConnectionError)
