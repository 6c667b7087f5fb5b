"""The application: on the mesh, in FastAPI's TestClient, and with its neighbours mocked."""

import pytest
from fastapi.testclient import TestClient
from shop import make_app


def test_the_shop_is_a_service_itself(cluster, web, mesh, mesh_service):
    mesh_service("web", make_app(web), port=80)
    with mesh.client() as client:
        assert client.get("http://web/products/7", params={"user": "jason"}).json() == {"product": 7, "reviews": "v2"}


def test_the_shop_in_a_test_client_asks_over_the_mesh(cluster, web):
    shop = TestClient(make_app(web))
    assert shop.get("/products/7?user=jason").json() == {"product": 7, "reviews": "v2"}


def test_the_shop_with_a_mocked_neighbour(web, respx_mock):
    respx_mock.get("http://reviews:9080/reviews/7").respond(500)
    response = TestClient(make_app(web)).get("/products/7")
    assert (response.status_code, response.json()) == (502, {"detail": "reviews says 500"})


def test_a_neighbour_that_is_not_deployed(web):
    response = TestClient(make_app(web)).get("/products/7")
    assert (response.status_code, response.json()) == (503, {"detail": "reviews cannot be reached"})


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_an_outage_of_the_control_plane_is_not_noticed(cluster, control_plane, web):
    async with web.async_client() as client:
        assert (await client.get("http://reviews:9080/reviews/1", headers={"end-user": "jason"})).json() == "v2"
        control_plane.stop()
        assert (await client.get("http://reviews:9080/reviews/1", headers={"end-user": "jason"})).json() == "v2"
