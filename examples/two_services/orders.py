"""Orders: asks stock for each thing that is ordered. `python -m examples.two_services.orders 8080`."""

from __future__ import annotations

import os
import sys
from typing import Any

from fastapi import FastAPI, Response

import meshsdk

# Over a folder each process says who it is; in a pod nobody sets this, and istiod knows.
mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
client = mesh.client()
app = FastAPI()


@app.get("/orders/{thing}")
def order(thing: str, response: Response) -> Any:
    """What stock says of a thing."""
    answer = client.get(f"http://stock/stock/{thing}")
    response.status_code = answer.status_code
    return answer.json()


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
