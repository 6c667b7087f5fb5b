"""orders: behind gunicorn, and a client of stock."""

import os
import time

import httpx
from flask import Flask, g
from meshsdk_flask import MeshFlask

import meshsdk

# In a pod SPIFFE_ID is not set, and istiod knows who this is.
mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
stock = mesh.client(base_url="http://stock:8000")  # threads share it
app = Flask("orders")
MeshFlask(app, mesh=mesh, port=int(os.environ.get("PORT", "8443")))


@app.get("/orders/<thing>")
def order(thing):
    try:
        response = stock.get(f"/stock/{thing}")
    except httpx.TransportError:
        return {"error": "stock cannot be reached"}, 503
    return {"stock": response.json(), "visitor": g.mesh_peer, "worker": os.getpid()}, response.status_code


@app.get("/orders/<thing>/invoice")
def invoice(thing):
    print("an invoice is written", flush=True)
    time.sleep(1.5)
    return {"paid": thing}
