"""Details of a book (Flask)."""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask

import meshsdk

mesh = meshsdk.Mesh()
app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


@app.get("/details/<product>")
def details(product: str) -> dict[str, Any]:
    """A book's details."""
    return {"id": product, "author": "William Shakespeare", "year": 1595, "pages": 200}


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=int(sys.argv[1]))
