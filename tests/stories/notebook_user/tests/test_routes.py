"""The manifests, by what they do."""


def test_jason_gets_the_canary(cluster, web):
    with web.client() as client:
        answers = {client.get("http://reviews:9080/reviews/1", headers={"end-user": "jason"}).json() for _ in range(5)}
    assert answers == {"v2"}


def test_one_in_ten_of_the_others_does(cluster, web):
    decision = web.explain("GET", "http://reviews:9080/reviews/1")
    assert [(one.name.split("|")[2], one.share) for one in decision.clusters] == [("v1", 0.9), ("v2", 0.1)]


def test_who_is_not_named_is_refused(cluster, mesh):
    with mesh.client() as client:
        response = client.get("http://reviews.shop:9080/reviews/1")
    assert (response.status_code, response.text) == (403, "RBAC: access denied")
