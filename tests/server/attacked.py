"""What is attacked: a FastAPI and a Flask application on the mesh, started by each kind of server.

Both run `/admin`, which policy closes, and tell of every other request what they see of it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import flask
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask

import meshsdk

__all__ = ["ADMIN", "RULES", "listener"]

ADMIN = "the application has run /admin"
_EVERY = ["GET", "POST", "OPTIONS", "PUT"]
_TYPE = "type.googleapis.com/envoy"


def asgi() -> FastAPI:
    """The FastAPI application, without the mesh."""
    app = FastAPI()

    @app.api_route("/admin", methods=_EVERY)
    async def admin() -> PlainTextResponse:
        return PlainTextResponse(ADMIN)

    @app.api_route("/{rest:path}", methods=_EVERY)
    async def other(request: Request) -> JSONResponse:
        await request.body()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
        return JSONResponse({"path": request.scope["path"], "headers": headers})

    return app


def wsgi() -> flask.Flask:
    """The Flask application, without the mesh."""
    app = flask.Flask("attacked")

    @app.route("/admin", methods=_EVERY)
    def admin() -> str:
        return ADMIN

    @app.route("/", defaults={"rest": ""}, methods=_EVERY)
    @app.route("/<path:rest>", methods=_EVERY)
    def other(rest: str) -> flask.Response:
        flask.request.get_data()
        seen = {"path": flask.request.path, "headers": list(flask.request.headers.items())}
        return flask.Response(json.dumps(seen), mimetype="application/json")

    return app


def _rule(permission: dict[str, Any], principal: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"permissions": [permission], "principals": [principal or {"any": True}]}


def _path(prefix: str) -> dict[str, Any]:
    return {"url_path": {"path": {"prefix": prefix}}}


def _header(name: str, **match: Any) -> dict[str, Any]:
    return {"header": {"name": name, **match}}


def _unless(principal: dict[str, Any]) -> dict[str, Any]:
    return {"not_id": principal}


# Who is refused, by what rule.
RULES = {
    "admin": _rule({"or_rules": {"rules": [{"url_path": {"path": {"exact": "/admin"}}}, _path("/admin/")]}}),
    "prefixed": _rule(_path("/shop/admin")),
    "host": _rule(_header(":authority", string_match={"prefix": "secret.example", "ignore_case": True})),
    "role": _rule(_header("x-role", string_match={"exact": "evil"})),
    "good role": _rule(
        {"and_rules": {"rules": [_path("/good"), _header("x-role", present_match=True, invert_match=True)]}}
    ),
    "secured": _rule(_path("/secured"), _unless({"authenticated": {}})),
    "near": _rule(_path("/near"), _unless({"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}})),
}


def listener(address: str, port: int, rules: dict[str, Any] = RULES) -> dict[str, Any]:
    """The policy as a raw document of a folder."""
    http = f"{_TYPE}.extensions.filters.http"
    rbac = {"@type": f"{http}.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": rules}}
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "attacked",
        "normalize_path": True,
        "merge_slashes": True,
        "route_config": {
            "name": "attacked",
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}],
                }
            ],
        },
        "http_filters": [
            {"name": "rbac", "typed_config": rbac},
            {"name": "router", "typed_config": {"@type": f"{http}.router.v3.Router"}},
        ],
    }
    return {
        "@type": f"{_TYPE}.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/{address}:{port}",
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }


PORT = int(os.environ.get("ATTACKED_PORT", "0"))

if PORT:
    mesh = meshsdk.Mesh()
    asgi_app = asgi()
    asgi_app.add_middleware(MeshMiddleware, mesh=mesh, port=PORT)
    wsgi_app = wsgi()
    MeshFlask(wsgi_app, mesh=mesh, port=PORT)

if __name__ == "__main__":
    bare: Any = wsgi() if sys.argv[1] == "wsgi" else asgi()
    options = {"root_path": sys.argv[2]} if len(sys.argv) > 2 else {}
    mesh.serve(bare, port=PORT, host="127.0.0.1", log_level="critical", **options)
