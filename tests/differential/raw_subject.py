"""The application behind each of our servers, with policies that come by a socket of their own.

Run as a module it is served by `mesh.serve`; uvicorn and gunicorn import `asgi_app` and `wsgi_app`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any

import meshsdk
from meshsdk.discovery import ServerView
from meshsdk.errors import ResourceError
from meshsdk.inbound import compile_policy
from meshsdk.resources import ResourceType, decode
from meshsdk.server.asgi import AsgiMiddleware
from meshsdk.server.wsgi import WsgiMiddleware

from .upstream import RESPONSE_HEADERS

PORT = int(os.environ.get("SUBJECT_PORT", "0"))
mesh = meshsdk.Mesh()
logging.getLogger("meshsdk.audit").disabled = True


async def asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it sees, without waiting for a body, as Envoy's upstream does."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    body = json.dumps({"method": scope["method"], "target": target, "headers": headers}).encode()
    framing = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": [*RESPONSE_HEADERS, *framing]})
    await send({"type": "http.response.body", "body": body})


def wsgi_echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The same as a WSGI application."""
    names = {name: name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_")}
    headers = [(names[name], environ[name]) for name in names]
    query = environ.get("QUERY_STRING", "")
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    seen = {"method": environ["REQUEST_METHOD"], "plain": path, "query": query, "headers": headers}
    body = json.dumps(seen).encode()
    own = [(name.decode(), value.decode()) for name, value in RESPONSE_HEADERS]
    framing = [("content-type", "application/json"), ("content-length", str(len(body)))]
    start_response("200 OK", [*own, *framing])
    return [body]


asgi_app = AsgiMiddleware(asgi_echo, mesh=mesh, port=PORT)
wsgi_app = WsgiMiddleware(wsgi_echo, mesh=mesh, port=PORT)


def take_policies(path: str) -> None:
    """Each message is a length and a packed listener; the answer is empty, or why it is refused."""
    names = [mesh.inbound(PORT).name, mesh.inbound(PORT, address="127.0.0.1").name]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            while head := stream.readline():
                problem = ""
                try:
                    view = ServerView(decode(ResourceType.LISTENER, stream.read(int(head))))
                    policy = compile_policy(view, None)
                    problem = policy.problem
                    mesh._runtime.policies = dict.fromkeys(names, policy)
                except ResourceError as error:
                    problem = str(error)
                stream.write(problem.replace("\n", " ").encode() + b"\n")
                stream.flush()


if "SUBJECT_POLICIES" in os.environ:
    threading.Thread(target=take_policies, args=(os.environ["SUBJECT_POLICIES"],), daemon=True).start()

if __name__ == "__main__":
    app: Any = wsgi_echo if sys.argv[1] == "wsgi" else asgi_echo
    mesh.serve(app, port=PORT, host="127.0.0.1", log_level="critical")
