"""Applications that are mounted run no path but the one that policy has judged.

Whoever mounts them chooses by the path as it came, policy judges it made uniform: where the two lead to different
applications, nobody is let in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .attacked import ADMIN, RULES
from .test_attack_table import Way, _get, _reached, attack, running

MODULE = "tests.server.attacked_mounts"

OUT_OF_THE_MOUNT = [
    _get("/shop/../admin"),
    _get("/shop/%2e%2e/admin"),
    _get("/shop/x/../../admin"),
    _get("/sho%70/../admin"),
    _get("/shop/..//admin"),
    _get("/shop/../shop/admin"),
    _get("/shop/x/../admin"),
    _get("/shop//admin"),
    _get("/shop/%61dmin"),
    _get("/shop/../admin", "SCRIPT_NAME:"),
    _get("/shop/../admin", "SCRIPT_NAME: /shop"),
    _get("/shop/../admin", "Script-Name: /shop"),
    _get("/admin/shop/../admin", "SCRIPT_NAME: /admin"),
]
# Where nothing but what is mounted has an /admin.
BESIDE_THE_MOUNT = [
    _get("/admin"),
    _get("/shopadmin"),
    _get("//shop/../admin"),
    _get("/admin", "SCRIPT_NAME: /"),
    _get("/admin", "SCRIPT_NAME:"),
    _get("/admin", "SCRIPT_NAME: /admin"),
]


def _uvicorn(app: str, *options: str) -> Way:
    return Way((sys.executable, "-m", "uvicorn", f"{MODULE}:{app}", "--port", "{port}", *options))


def _gunicorn(app: str, *options: str, script_name: str = "") -> Way:
    environment = (("SCRIPT_NAME", script_name),) if script_name else ()
    return Way((sys.executable, "-m", "gunicorn", f"{MODULE}:{app}", "-b", "{address}", *options), environment)


MOUNTS = {
    "starlette, uvicorn": _uvicorn("starlette"),
    "starlette, uvicorn h11": _uvicorn("starlette", "--http", "h11"),
    "starlette, hypercorn": Way((sys.executable, "-m", "hypercorn", f"{MODULE}:starlette", "-b", "{address}")),
    "starlette, gunicorn asgi": _gunicorn("starlette", "-k", "asgi"),
    "starlette wrapped, uvicorn h11": _uvicorn("wrapped", "--http", "h11"),
    "flask in FastAPI, uvicorn": _uvicorn("flask_in_fastapi"),
    "werkzeug, gunicorn": _gunicorn("dispatched"),
    "SCRIPT_NAME, gunicorn": _gunicorn("flask_app", script_name="/shop"),
}
# The application stands at the root, too.
ALSO_AT_THE_ROOT = {
    "FastAPI root_path, uvicorn h11": _uvicorn("rooted", "--http", "h11"),
    "stripping, uvicorn": _uvicorn("stripping"),
    "stripping, uvicorn h11": _uvicorn("stripping", "--http", "h11"),
}


@pytest.mark.parametrize("name", [*MOUNTS, *ALSO_AT_THE_ROOT])
def test_no_path_leads_out_of_a_mount_past_policy(name: str, tmp_path: Path) -> None:
    way = MOUNTS.get(name) or ALSO_AT_THE_ROOT[name]
    requests = OUT_OF_THE_MOUNT + (BESIDE_THE_MOUNT if name in MOUNTS else [])
    with running(way, tmp_path, {"prefixed": RULES["prefixed"]}) as port:
        for good in ("/shop/good", "/shop//x/../good?a=b", "/shop/./good"):
            answer = attack(port, [_get(good)])
            assert _reached(answer), (good, answer)
        ran = [request for request in requests if ADMIN.encode() in attack(port, [request])]
    assert ran == []


@pytest.mark.parametrize("name", [name for name in MOUNTS if name.endswith("uvicorn") and "flask" not in name])
def test_the_first_request_of_all_is_read_as_strictly_as_others(name: str, tmp_path: Path) -> None:
    with running(MOUNTS[name], tmp_path, {"host": RULES["host"]}) as port:
        first = attack(port, [_get("http://secret.example/shop/x")])
    assert first.startswith(b"HTTP/1.1 403")
