"""The shop's page: what this project is, and what its tests test."""

import httpx
from fastapi import FastAPI, HTTPException


def make_app(mesh):
    app = FastAPI()
    reviews = mesh.async_client(base_url="http://reviews:9080")

    @app.get("/products/{product}")
    async def product(product: int, user: str = ""):
        try:
            response = await reviews.get(f"/reviews/{product}", headers={"end-user": user})
        except httpx.TransportError as error:
            raise HTTPException(503, "reviews cannot be reached") from error
        if response.is_error:
            raise HTTPException(502, f"reviews says {response.status_code}")
        return {"product": product, "reviews": response.json()}

    return app
