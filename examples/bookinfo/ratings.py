"""Ratings (Flask), in several replicas; each says who it is."""

from __future__ import annotations

import logging
import sys
from typing import Any

from flask import Flask

replica = sys.argv[2] if len(sys.argv) > 2 else "a"
app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


@app.get("/ratings/<product>")
def ratings(product: str) -> dict[str, Any]:
    """Stars by reviewer."""
    return {"replica": replica, "stars": {"Reviewer1": 5, "Reviewer2": 4}}


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
