"""reviews: `python reviews.py`, or gunicorn with the application loaded before it forks."""

import os
import time

from flask import Flask
from meshsdk_flask import MeshFlask

import meshsdk

PORT = int(os.environ["PORT"])

mesh = meshsdk.Mesh()
app = Flask("reviews")
MeshFlask(app, mesh=mesh, port=PORT)


@app.get("/")
def reviews():
    return {"worker": os.getpid()}


@app.get("/slow")
def slow():
    print("a slow request begins", flush=True)
    time.sleep(1.5)
    return {"slow": True}


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=PORT, log_level="warning", timeout_graceful_shutdown=20)
