"""A Flask and gunicorn team: two workers behind mutual TLS and policy, retries, metrics, and an orderly end."""

import signal
import threading

import httpx
from telling import Process, Story, eventually, has, same

import meshsdk

SHOP = "spiffe://cluster.local/ns/shop/sa"

story = Story("orders", "stock_1", "stock_2", "metrics", "flask")
step, port = story.step, story.port
running: dict[str, Process] = {}


@step
def the_chart_is_checked_together_with_what_runs_here():
    story.fill("laptop.yaml", "mesh/laptop.yaml")
    has(story.run("meshsdk", "check", "mesh/"), "ok: ", "Deployment")


@step
def two_replicas_of_stock_and_gunicorn_with_two_workers_are_started():
    for replica, health in (("stock_1", {"ILL": "1"}), ("stock_2", {})):
        running[replica] = story.start(
            replica,
            *("python", "stock.py"),
            MESHSDK_CONFIG="mesh",
            SPIFFE_ID=f"{SHOP}/stock",
            PORT=str(port[replica]),
            **health,
        )
    running["orders"] = story.start(
        "orders",
        *("gunicorn", "orders:app"),
        MESHSDK_CONFIG="mesh",
        MESHSDK_METRICS_PORT=str(port["metrics"]),
        SPIFFE_ID=f"{SHOP}/orders",
        PORT=str(port["orders"]),
    )
    running["orders"].says(f"Listening at: https://127.0.0.1:{port['orders']}")
    for replica in ("stock_1", "stock_2"):
        running[replica].says(f"meshsdk serves on 127.0.0.1:{port[replica]} (mutual TLS STRICT, 1 policy)")


@step
def both_workers_answer_and_the_ill_replica_is_not_noticed():
    global visitor
    visitor = story.until_the_end(meshsdk.Mesh(config="mesh", identity=f"{SHOP}/web"))
    workers = set()

    def both() -> bool:
        with visitor.client() as client:  # connections of its own
            response = client.get("http://orders:8000/orders/lamp")
        same(response.status_code, 200)
        same(response.json()["visitor"], f"{SHOP}/web")
        same(response.json()["stock"], {"thing": "lamp", "left": 3, "asked_by": f"{SHOP}/orders"})
        workers.add(response.json()["worker"])
        return len(workers) == 2

    eventually(both, "an answer of each worker")
    same(workers, set(running["orders"].children()))


@step
def what_policy_does_not_let_in_is_refused_by_gunicorn_too():
    with visitor.client(base_url="http://orders:8000") as client:
        same(client.post("/orders/lamp").status_code, 403)
        same(client.get("/admin").status_code, 403)
    with meshsdk.Mesh(config="mesh", identity=f"{SHOP}/batch") as mesh, mesh.client() as batch:
        same(batch.get("http://orders:8000/orders/lamp").text, "RBAC: access denied")
    running["orders"].says(f"peer='{SHOP}/batch'")
    for scheme in ("http", "https"):
        try:
            found = httpx.get(f"{scheme}://127.0.0.1:{port['orders']}/orders/lamp", verify=False)
        except httpx.TransportError:
            continue
        raise AssertionError(f"without a certificate, over {scheme}, {found!r} came")


@step
def one_metrics_page_tells_of_both_workers_and_of_the_retries():
    page = httpx.get(f"http://127.0.0.1:{port['metrics']}/stats/prometheus").text
    has(page, 'reporter="destination"', 'reporter="source"', 'destination_service="stock.shop.svc.cluster.local"')
    lines = [line for line in page.splitlines() if line.startswith("istio_requests_total{")]
    denied = [line for line in lines if 'reporter="destination"' in line and 'response_code="403"' in line]
    same(sum(float(line.rpartition(" ")[2]) for line in denied), 3.0)
    retried = [line for line in page.splitlines() if line.startswith("meshsdk_") and "retr" in line and "#" not in line]
    assert any(float(line.rpartition(" ")[2]) > 0 for line in retried), f"no retry is counted: {retried}"


@step
def gunicorn_says_why_it_does_not_start_at_a_port_that_no_workload_has():
    said = story.run(
        *("gunicorn", "orders:app"),
        code=(3, 1),  # 1 where both workers end in the same moment, and gunicorn trips over the second.
        MESHSDK_CONFIG="mesh",
        SPIFFE_ID=f"{SHOP}/orders",
        PORT=str(port["flask"]),
    )
    has(said, f"port {port['flask']} has no inbound policy", "add a WorkloadEntry with this address and port")


@step
def the_development_server_of_flask_says_why_it_does_not_start_under_strict():
    said = story.run(
        *("flask", "--app", "orders", "run", "--port", str(port["flask"])),
        code=1,
        MESHSDK_CONFIG="mesh",
        SPIFFE_ID=f"{SHOP}/orders",
        PORT=str(port["orders"]),
    )
    has(said, "takes mutual TLS only", "mesh.serve")


@step
def a_request_under_way_is_answered_when_gunicorn_is_told_to_end():
    answers = []

    def ask() -> None:
        with visitor.client(timeout=20) as client:
            answers.append(client.get("http://orders:8000/orders/lamp/invoice"))

    asking = threading.Thread(target=ask)
    asking.start()
    running["orders"].says("an invoice is written")
    same(running["orders"].ends(by=signal.SIGTERM), 0)
    asking.join()
    same([answer.json() for answer in answers], [{"paid": "lamp"}])
    same("Traceback" in running["orders"].log(), False)


if __name__ == "__main__":
    story.tell()
