"""reviews: who asked, and which version answered."""

import os

from fastapi import FastAPI, Request

import meshsdk

VERSION = os.environ["VERSION"]

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
app = FastAPI()


@app.get("/reviews/{product}")
async def reviews(product: int, request: Request):
    return {"product": product, "version": VERSION, "asked_by": request.state.mesh_peer}


@app.delete("/reviews/{product}")
async def delete(product: int):
    return {}


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    mesh.serve(app, host="127.0.0.1", port=port, health=int(os.environ["HEALTH_PORT"]), log_level="warning")
