"""Each attack on each way in: HTTP's odd corners, the server's own view of path and connection. The table is printed.

An attack has failed where the application was not reached, or did not see what it was not to see.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from .attacked import ADMIN, RULES, listener

MODULE = "tests.server.attacked"
PYTHON = sys.executable


@dataclass(frozen=True)
class Way:
    """How an application is served.

    Attributes:
        environment: More of it.
        is_prefixed: The application is mounted at /shop, by the server.
    """

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    is_prefixed: bool = False


def _uvicorn(*options: str, **more: bool) -> Way:
    return Way((PYTHON, "-m", "uvicorn", f"{MODULE}:asgi_app", "--port", "{port}", *options), **more)


def _gunicorn(app: str, *options: str, environment: tuple[tuple[str, str], ...] = (), **more: bool) -> Way:
    return Way((PYTHON, "-m", "gunicorn", f"{MODULE}:{app}", "-b", "{address}", *options), environment, **more)


SHOP = (("SCRIPT_NAME", "/shop"),)
WAYS = {
    "mesh.serve ASGI": Way((PYTHON, "-m", MODULE, "asgi")),
    "mesh.serve WSGI": Way((PYTHON, "-m", MODULE, "wsgi")),
    "mesh.serve ASGI root_path": Way((PYTHON, "-m", MODULE, "asgi", "/shop"), is_prefixed=True),
    "mesh.serve WSGI root_path": Way((PYTHON, "-m", MODULE, "wsgi", "/shop"), is_prefixed=True),
    "uvicorn MeshProtocol": _uvicorn("--http", "meshsdk.server.uvicorn_protocol:MeshProtocol"),
    "uvicorn": _uvicorn(),
    "uvicorn h11": _uvicorn("--http", "h11"),
    "uvicorn root_path": _uvicorn("--root-path", "/shop", is_prefixed=True),
    "uvicorn h11 root_path": _uvicorn("--http", "h11", "--root-path", "/shop", is_prefixed=True),
    "hypercorn": Way((PYTHON, "-m", "hypercorn", f"{MODULE}:asgi_app", "-b", "{address}")),
    "gunicorn sync": _gunicorn("wsgi_app"),
    "gunicorn gthread": _gunicorn("wsgi_app", "-k", "gthread"),
    "gunicorn SCRIPT_NAME": _gunicorn("wsgi_app", environment=SHOP, is_prefixed=True),
    "gunicorn asgi": _gunicorn("asgi_app", "-k", "asgi"),
    "flask run": Way((PYTHON, "-m", "flask", "--app", f"{MODULE}:wsgi_app", "run", "-p", "{port}")),
}


def _get(target: str, *lines: str, host: str = "web", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    every = "".join(f"{line}\r\n" for line in (f"host: {host}", *lines, "connection: close"))
    return f"{method} {target} {version}\r\n{every}\r\n".encode("latin-1")


def _chunked(trailers: str, *lines: str) -> list[bytes]:
    head = _get("/x", "transfer-encoding: chunked", *lines, method="POST")
    return [head + b"1\r\na\r\n", f"0\r\n{trailers}\r\n\r\n".encode("latin-1")]


# By name: what is sent, in pieces. The application must not be reached.
KEPT_OUT: dict[str, list[bytes]] = {
    **{
        f"path {target}": [_get(target)]
        for target in (
            "/admin",
            "/admin/",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/%61dmin",
            "/x/%2e%2e/admin",
            "/admin?",
            "/admin#x",
            "/admin%0a",
            "/admin%0A",
            "/admin%00",
            "/admin%7f",
            "/x/..;/admin",
            "/x/%2e%2e;/admin",
            "http://web/admin",
            "http://web/x/../admin",
            "HTTP://web/admin",
            "/shop/admin",
        )
    },
    **{
        f"header {line!r}": [_get("/x", line)]
        for line in (
            "x-role: evil",
            "x-role: evil ",
            "x-role:\tevil\t",
            "X-Role:evil",
            "x-role: good\r\nx-role: evil",
            "x-role: evil\r\nx-role: good",
        )
    },
    **{
        f"host {host!r}": [_get("/x", host=host)]
        for host in (
            "secret.example",
            "secret.example ",
            "SECRET.example",
            "secret.example:80",
            "secret.example/x",
            "secret.example?x",
            "secret.example#x",
            "secret.example:",
            "web/x",
            "web?x",
            "web#x",
            "",
            "web:",
            "web:x",
            "u@web",
            "a b",
        )
    },
    "two hosts": [_get("/x", "host: secret.example")],
    "absolute target of a closed host": [_get("http://secret.example/x")],
    "absolute target, other scheme": [_get("ftp://web/x")],
    "connection names a header": [_get("/good", "x-role: good", "connection: x-role")],
    "connection names the host": [_get("/x", "connection: host")],
    "connection names x-forwarded-for": [_get("/x", "connection: x-forwarded-for")],
    "a trailer that policy asks for": _chunked("x-role: good", "x-other: 1")[:0]
    or [b"".join(_chunked("x-role: good")).replace(b"POST /x", b"POST /good")],
    "a good role by underscore": [_get("/good", "x_role: good")],
    "unknown method": [_get("/x", method="FOO")],
    "method in lower case": [_get("/x", method="get")],
    "HTTP/1.0": [_get("/x", version="HTTP/1.0")],
    "another coding": [_get("/x", "transfer-encoding: gzip, chunked", method="POST") + b"0\r\n\r\n"],
    "length and chunks": [_get("/x", "content-length: 5", "transfer-encoding: chunked", method="POST") + b"0\r\n\r\n"],
    "two lengths": [_get("/x", "content-length: 1", "content-length: 2", method="POST") + b"ab"],
    "a folded header": [_get("/good", "x-other: 1\r\n x-role: good")],
    "101 headers": [_get("/x", *(f"y{i}: z" for i in range(100)))],
    "a head of 64 KiB": [_get("/x", "y: " + "z" * 65536)],
    "a target of 64 KiB": [_get("/x?" + "z" * 65536)],
    **{
        f"secured by {line}": [_get("/secured", line)]
        for line in (
            "x-forwarded-proto: https",
            "x-forwarded-protocol: ssl",
            "x-forwarded-ssl: on",
            "forwarded: proto=https",
            "x-forwarded-scheme: https",
            "x-url-scheme: https",
        )
    },
    **{
        f"near by {line}": [_get("/near", line)]
        for line in ("x-forwarded-for: 10.1.2.3", "x-real-ip: 10.1.2.3", "forwarded: for=10.1.2.3")
    },
    "x-original-url": [_get("/admin", "x-original-url: /x", "x-rewrite-url: /x")],
}

# The application may be reached, and must not run /admin, whose path the request line does not name.
NOT_ADMIN: dict[str, list[bytes]] = {
    **{
        f"{line} {name} for {target}": [_get(target, f"{line}: {name}")]
        for line in ("SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix")
        for target, name in (("/pub/admin", "/pub"), ("/admin/", "/admin"), ("/x/admin", "/x"))
    },
    "path info": [_get("/x", "PATH_INFO: /admin")],
    "path info by a hyphen": [_get("/x", "Path-Info: /admin")],
}

# The application may be reached, and must not see the word `evil`.
UNSEEN: dict[str, list[bytes]] = {
    "trailer x-role": _chunked("x-role: evil"),
    "trailer x-forwarded-client-cert": _chunked("x-forwarded-client-cert: evil"),
    "trailer in one segment": [b"".join(_chunked("x-forwarded-client-cert: evil"))],
    "x_forwarded_client_cert": [_get("/x", "x_forwarded_client_cert: evil")],
    "x-forwarded-client-cert": [_get("/x", "x-forwarded-client-cert: evil")],
    "x_envoy_internal": [_get("/x", "x_envoy_internal: evil")],
    "x-envoy-internal": [_get("/x", "x-envoy-internal: evil")],
}
EVERY = {**KEPT_OUT, **NOT_ADMIN, **UNSEEN}
# What a server shows to nobody behind it. CGI holds one value a name, and Envoy compares lists as a whole, too.
_LISTS = tuple(row for row in KEPT_OUT if row.startswith("header ") and row.count("x-role") == 2)
HIDDEN = {
    "hypercorn": ("method in lower case",),  # It is made upper case.
    "gunicorn": _LISTS,
    "flask": (*_LISTS, "two lengths"),  # The server for development takes the last one.
}

# Names with underscores are other names to ASGI applications, which do not take them for those with hyphens.
_ONLY_OF_WSGI = ("x_forwarded_client_cert", "x_envoy_internal", "a good role by underscore")


def attack(port: int, pieces: list[bytes]) -> bytes:
    """What a server answers."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(pieces[0])
        for piece in pieces[1:]:
            time.sleep(0.05)  # The head is read, and policy has looked at it.
            with contextlib.suppress(OSError):
                connection.sendall(piece)
        while chunk := connection.recv(65536):
            received += chunk
    return received


def _reached(answer: bytes) -> bool:
    return answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))


@contextlib.contextmanager
def running(way: Way, folder: Path, rules: dict[str, Any] = RULES) -> Iterator[int]:
    """One way in, its port."""
    [port] = free_ports(1)
    (folder / "mesh").mkdir(parents=True)
    for address in ("0.0.0.0", "127.0.0.1"):
        (folder / "mesh" / f"{address}.json").write_text(json.dumps(listener(address, port, rules)))
    parts = {"{port}": str(port), "{address}": f"127.0.0.1:{port}"}
    root = str(Path(__file__).parents[2])
    environment = {
        **CLEAN_ENVIRONMENT,
        **dict(way.environment),
        "MESHSDK_CONFIG": str(folder / "mesh"),
        "ATTACKED_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([root, str(Path(root, "integrations"))]),
    }
    with (folder / "log").open("wb") as log:
        command = [parts.get(part, part) for part in way.command]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root)
    try:
        wait_for_port(port, process, seconds=PATIENCE)
        yield port
        said = (folder / "log").read_text()
        # A server that has died keeps everybody out, and so has one whose worker was replaced.
        if process.poll() is not None or "Worker (pid" in said:
            raise RuntimeError(f"the server or its worker has ended with {process.poll()}")
    except (RuntimeError, TimeoutError) as error:
        raise RuntimeError(f"{error}: {(folder / 'log').read_text()[-2000:]}") from error
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize("name", WAYS)
def test_no_attack_reaches_the_application(name: str, tmp_path: Path) -> None:
    is_wsgi = "wsgi" in " ".join(WAYS[name].command)
    prefix = "/shop" if "SCRIPT_NAME" in dict(WAYS[name].environment) else ""
    with running(WAYS[name], tmp_path) as port, ThreadPoolExecutor(4) as threads:
        good = attack(port, [_get(f"{prefix}/good", "x-role: good")])
        assert _reached(good), good
        left_out = HIDDEN.get(name.partition(" ")[0], ()) if "asgi" not in name else ()
        left_out += () if is_wsgi else _ONLY_OF_WSGI
        rows = {row: pieces for row, pieces in EVERY.items() if row not in left_out}
        answers = dict(zip(rows, threads.map(lambda pieces: attack(port, pieces), rows.values()), strict=True))
        good = attack(port, [_get(f"{prefix}/good", "x-role: good")])
        assert _reached(good), good
    got_in = [row for row in rows if row in KEPT_OUT and _reached(answers[row])]
    seen = [row for row in rows if row in UNSEEN and b"evil" in answers[row].partition(b"\r\n\r\n")[2]]
    ran = [row for row in rows if ADMIN.encode() in answers[row]]
    lines = [answer.partition(b"\r\n")[0][9:12].decode() or "closed" for answer in answers.values()]
    print(
        f"\n{name}: {len(rows)} attacks, {len(got_in + seen)} got through; answers "
        + ", ".join(f"{lines.count(one)} x {one}" for one in sorted(set(lines)))
    )
    assert (got_in, seen, ran) == ([], [], [])
