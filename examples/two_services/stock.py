"""Stock: knows how many there are, and who has asked. `python -m examples.two_services.stock 8081`."""

from __future__ import annotations

import os
import sys
from typing import Any

from fastapi import FastAPI, Request

import meshsdk

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
app = FastAPI()


@app.get("/v1/stock/{thing}")
def stock(thing: str, request: Request) -> dict[str, Any]:
    """How many there are; `mesh_peer` has been proven by the caller's certificate."""
    return {"thing": thing, "left": 3, "path": request.url.path, "asked_by": request.state.mesh_peer}


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
