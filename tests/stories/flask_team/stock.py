"""stock: two replicas, of which one is ill."""

import os

from flask import Flask, g
from meshsdk_flask import MeshFlask

import meshsdk

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
port = int(os.environ["PORT"])
app = Flask("stock")
MeshFlask(app, mesh=mesh, port=port)


@app.get("/stock/<thing>")
def stock(thing):
    if "ILL" in os.environ:
        return {"error": "the database is away"}, 503
    return {"thing": thing, "left": 3, "asked_by": g.mesh_peer}


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=port, log_level="warning")
