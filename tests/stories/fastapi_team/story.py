"""A FastAPI team with Istio YAML: what their cluster has, on a laptop."""

import signal
from pathlib import Path

import httpx
from telling import Process, Story, eventually, has, same

import meshsdk

SHOP = "spiffe://cluster.local/ns/shop/sa"

story = Story("web", "reviews_v1", "reviews_v2", "probes_v1", "probes_v2", "admin")
step, port = story.step, story.port
running: dict[str, Process] = {}


@step
def the_export_of_the_cluster_is_checked_as_it_is():
    has(story.run("meshsdk", "check", "mesh/"), "ok: ")


@step
def workload_entries_say_what_runs_on_the_laptop():
    story.fill("laptop.yaml", "mesh/laptop.yaml")
    has(story.run("meshsdk", "check", "mesh/"), "ok: ")


@step
def a_route_is_shown_before_anything_runs():
    jason = ("http://reviews:9080/reviews/1", "-H", "end-user:jason", "--namespace", "shop")
    shown = has(story.run("meshsdk", "route", "mesh/", *jason), "forward by route jason", "100% cluster")
    has(shown, f"127.0.0.1:{port['reviews_v2']}")


@step
def two_versions_of_reviews_and_web_are_started():
    for version in ("v1", "v2"):
        running[version] = story.start(
            f"reviews-{version}",
            *("python", "reviews.py"),
            MESHSDK_CONFIG="mesh",
            SPIFFE_ID=f"{SHOP}/reviews",
            VERSION=version,
            PORT=str(port[f"reviews_{version}"]),
            HEALTH_PORT=str(port[f"probes_{version}"]),
        )
    running["web"] = story.start(
        "web",
        *("uvicorn", "web:app", "--host", "127.0.0.1", "--port", str(port["web"])),
        *("--http", "meshsdk.server.uvicorn_protocol:MeshProtocol", "--no-access-log"),
        MESHSDK_CONFIG="mesh",
        MESHSDK_ADMIN_PORT=str(port["admin"]),
        SPIFFE_ID=f"{SHOP}/web",
        PORT=str(port["web"]),
    )
    for version in ("v1", "v2"):
        serves = f"meshsdk serves on 127.0.0.1:{port[f'reviews_{version}']} (mutual TLS STRICT, 1 policy)"
        running[version].says(serves)
    running["web"].says("Application startup complete.")


@step
def jason_gets_v2_through_web_and_each_hop_knows_its_caller():
    global visitor
    mesh = story.until_the_end(meshsdk.Mesh(config="mesh", identity=f"{SHOP}/gateway"))
    visitor = story.until_the_end(mesh.client(base_url="http://web"))
    response = visitor.get("/products/1", headers={"end-user": "jason"})
    wanted = {"visitor": f"{SHOP}/gateway", "reviews": {"product": 1, "version": "v2", "asked_by": f"{SHOP}/web"}}
    same(response.json(), wanted)


@step
def everybody_else_gets_v1_nine_times_of_ten():
    versions = [visitor.get("/products/1").json()["reviews"]["version"] for _ in range(60)]
    same(set(versions) <= {"v1", "v2"}, True)
    assert versions.count("v1") > versions.count("v2"), versions


@step
def a_caller_that_policy_does_not_name_is_denied_and_one_without_a_certificate_gets_no_answer():
    with meshsdk.Mesh(config="mesh", identity=f"{SHOP}/batch") as mesh, mesh.client() as batch:
        response = batch.get("http://reviews:9080/reviews/1")
        same((response.status_code, response.text), (403, "RBAC: access denied"))
    denied = f"peer='{SHOP}/batch'"
    eventually(lambda: denied in running["v1"].log() + running["v2"].log(), "an audit event with the caller")
    with meshsdk.Mesh(config="mesh", identity=f"{SHOP}/web") as mesh, mesh.client() as web:
        same(web.delete("http://reviews:9080/reviews/1").status_code, 403)
    try:
        found = httpx.get(f"http://127.0.0.1:{port['reviews_v1']}/reviews/1")
    except httpx.TransportError:
        return
    raise AssertionError(f"plaintext was answered: {found!r}")


@step
def probes_are_answered_in_plaintext_at_the_health_port():
    for path in ("/livez", "/readyz"):
        same(httpx.get(f"http://127.0.0.1:{port['probes_v1']}{path}").status_code, 200)


@step
def an_edit_takes_effect_while_everything_runs():
    path = Path("mesh/cluster.yaml")
    path.write_text(path.read_text().replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100"))

    def all_get_v2() -> bool:
        return {visitor.get("/products/1").json()["reviews"]["version"] for _ in range(20)} == {"v2"}

    eventually(all_get_v2, "v2 for everybody")


@step
def an_edit_with_a_mistake_changes_nothing_and_the_field_is_named():
    path = Path("mesh/cluster.yaml")
    good = path.read_text()
    path.write_text(good.replace("weight: 100", "weight: 1OO"))
    weight = "VirtualService/reviews.spec.http[1].route[1].weight: must be a whole number"
    has(story.run("meshsdk", "check", "mesh/", code=1), "mesh/cluster.yaml", weight)
    eventually(lambda: "what it said before stays in use" in running["web"].log(), "the problem in web's log")
    same(visitor.get("/products/1").json()["reviews"]["version"], "v2")
    path.write_text(good)


@step
def a_program_can_ask_why():
    with meshsdk.Mesh(config="mesh", identity=f"{SHOP}/web") as mesh:
        decision = mesh.explain("GET", "http://reviews:9080/reviews/1")
    same([(cluster.name.split("|")[2], cluster.share) for cluster in decision.clusters], [("v2", 1.0)])
    has(str(decision), "not: jason", "end-user")


@step
def the_status_of_the_running_process_is_asked_for_by_its_pid():
    shown = story.run("meshsdk", "status", "--pid", str(running["web"].pid))
    has(shown, "outbound|9080|v2|reviews.shop.svc.cluster.local", "ACKED")


@step
def each_process_ends_at_sigterm():
    for process in running.values():
        same(process.ends(by=signal.SIGTERM) in (0, -signal.SIGTERM), True)
        same("Traceback" in process.log(), False)


if __name__ == "__main__":
    story.tell()
