"""An SRE who must allow it: what it opens, writes, logs and takes, and what happens when something ends."""

import os
import signal
import stat
import threading
from pathlib import Path

import httpx
from telling import (
    Process,
    Story,
    eventually,
    has,
    listening_ports,
    memory_megabytes,
    same,
    threads,
)

import meshsdk

REVIEWS = "http://reviews.shop:9080/"
SECRET = "the-secret-of-the-shop"

story = Story("reviews", "workers", "admin", "server")
step, port = story.step, story.port
running: dict[str, Process] = {}


def _folders(name: str) -> dict[str, str]:
    """A home and places for temporary files of a process's own, which are empty."""
    folders = {variable: f"{name}/{variable}" for variable in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    return {variable: str(Path(folder).absolute()) for variable, folder in folders.items()}


def _written(name: str) -> list[Path]:
    return [path for path in Path(name).rglob("*") if path.is_file() or path.is_socket()]


@step
def a_mistake_ends_the_check_in_ci_with_1():
    story.fill("laptop.yaml", "mesh/laptop.yaml")
    story.run("meshsdk", "check", "mesh/")
    good = Path("mesh/cluster.yaml").read_text()
    Path("mesh/cluster.yaml").write_text(good.replace("methods: [GET]", "metods: [GET]"))
    has(story.run("meshsdk", "check", "mesh/", code=1), "mesh/cluster.yaml", "metods")
    Path("mesh/cluster.yaml").write_text(good)


@step
def a_client_opens_no_port_and_writes_no_file():
    running["reviews"] = story.start(
        "reviews", "python", "reviews.py", MESHSDK_CONFIG="mesh", PORT=str(port["reviews"])
    )
    running["reviews"].says("meshsdk serves on")
    running["visitor"] = story.start(
        "visitor", "python", "visitor.py", REVIEWS, MESHSDK_CONFIG="mesh", **_folders("visitor")
    )
    running["visitor"].says(" 200")
    same(listening_ports(running["visitor"].pid), {})
    same(_written("visitor"), [])


@step
def a_client_over_a_folder_has_one_thread_more():
    same(len(threads(running["visitor"].pid)), 2)
    running["visitor"].says("threads: MainThread, meshsdk-control\n")


@step
def a_server_opens_the_port_that_it_was_told_and_no_other():
    same(listening_ports(running["reviews"].pid), {port["reviews"]: "loopback"})


@step
def unknown_hosts_can_be_refused():
    denied = story.start(
        "denied",
        *("python", "visitor.py", "http://reviws.shop:9080/"),
        MESHSDK_CONFIG="mesh",
        UNKNOWN_HOSTS="deny",
    )
    denied.says("reviws.shop", "reviews")
    same(" 200" in denied.log(), False)
    denied.ends(by=signal.SIGTERM)


@step
def the_admin_page_is_on_the_loopback_alone_and_shows_no_secret():
    watched = story.start(
        "watched",
        *("python", "visitor.py", REVIEWS),
        MESHSDK_CONFIG="mesh",
        MESHSDK_ADMIN_PORT=str(port["admin"]),
    )
    watched.says(" 200")
    same(listening_ports(watched.pid), {port["admin"]: "loopback"})
    page = f"http://127.0.0.1:{port['admin']}"
    dump = has(httpx.get(f"{page}/config_dump").text, "reviews.shop", "[redacted]")
    for text in (dump, httpx.get(f"{page}/clusters").text, httpx.get(f"{page}/stats").text):
        same(SECRET in text, False)
    status = story.run("meshsdk", "status", "--pid", str(watched.pid), "--json")
    same((SECRET in status, "reviews.shop.svc.cluster.local" in status), (False, True))
    same(httpx.get(page, headers={"host": "attacker.example"}).status_code, 403)
    watched.ends(by=signal.SIGTERM)


def _bootstrap() -> str:
    """What the control plane has printed for its clients."""
    said = running["server"].says("GRPC_XDS_BOOTSTRAP_CONFIG='", "version ")
    return said.partition("GRPC_XDS_BOOTSTRAP_CONFIG='")[2].partition("'")[0]


@step
def a_management_server_that_is_killed_takes_no_traffic_with_it():
    path = Path("mesh/cluster.yaml")  # a route with a secret in it would not be kept on disk
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if SECRET not in line))
    running["server"] = story.start("server", "meshsdk", "control-plane", "mesh/", "--port", str(port["server"]))
    running["served"] = story.start(
        "served",
        *("python", "visitor.py", REVIEWS),
        GRPC_XDS_BOOTSTRAP_CONFIG=_bootstrap(),
        MESHSDK_CACHE_DIR="cache/mesh",
    )
    running["served"].says(" 200")
    same(listening_ports(running["served"].pid), {})
    eventually(lambda: _written("cache"), "what was sent to be kept")
    running["server"].ends(by=signal.SIGKILL)
    running["served"].says("management server")
    answered = running["served"].log().count(" 200")
    eventually(lambda: running["served"].log().count(" 200") > answered + 5, "requests to be answered still")
    same([line for line in running["served"].log().splitlines() if "Error:" in line], [])
    same(running["served"].log().count("management server"), 1)


@step
def what_is_kept_is_for_this_user_alone():
    for path in (*Path("cache").rglob("*"), Path("cache/mesh")):
        mode = stat.S_IMODE(path.stat().st_mode)
        same((str(path), oct(mode)), (str(path), "0o700" if path.is_dir() else "0o600"))
    same(any(SECRET.encode() in path.read_bytes() for path in _written("cache")), False)


@step
def a_process_starts_and_serves_while_the_management_server_is_away():
    late = story.start(
        "late",
        *("python", "visitor.py", REVIEWS),
        GRPC_XDS_BOOTSTRAP_CONFIG=_bootstrap(),
        MESHSDK_CACHE_DIR="cache/mesh",
    )
    late.says(" 200", "kept")
    late.ends(by=signal.SIGTERM)


@step
def workers_that_are_forked_after_the_application_was_loaded_follow_the_mesh():
    running["workers"] = story.start(
        "workers",
        *("gunicorn", "reviews:app", "--preload", "--workers", "2", "--threads", "4"),
        *("--bind", f"127.0.0.1:{port['workers']}"),
        MESHSDK_CONFIG="mesh",
        PORT=str(port["workers"]),
    )
    master = running["workers"]
    eventually(lambda: len(master.children()) == 2, "two workers")
    seen = set()

    def both() -> bool:
        with httpx.Client() as client:
            try:
                seen.add(client.get(f"http://127.0.0.1:{port['workers']}/").json()["worker"])
            except httpx.ConnectError:
                return False
        return len(seen) == 2

    eventually(both, "an answer of each worker")
    same(httpx.post(f"http://127.0.0.1:{port['workers']}/").text, "RBAC: access denied")
    killed = seen.pop()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(set(master.children()) - {killed}) == 2, "another worker")


@step
def memory_is_told_by_process():
    running["bare"] = story.start("bare", "python", "visitor.py", "http://127.0.0.1:1/", MESH="no")
    running["bare"].says("ConnectError")
    workers = running["workers"].children()
    table = {
        "httpx alone": running["bare"].pid,
        "a client over a folder": running["visitor"].pid,
        "a client of a management server": running["served"].pid,
        "mesh.serve with Flask": running["reviews"].pid,
        "a worker of gunicorn with Flask": workers[0],
    }
    for name, pid in table.items():
        print(f"{'':10}{memory_megabytes(pid):4} MB, {len(threads(pid)):2} threads  {name}")
    assert memory_megabytes(running["visitor"].pid) < memory_megabytes(running["bare"].pid) + 40


@step
def sigterm_lets_what_is_under_way_end_and_no_traceback_is_printed():
    answers = []

    def ask() -> None:
        answers.append(httpx.get(f"http://127.0.0.1:{port['reviews']}/slow", timeout=20).json())

    asking = threading.Thread(target=ask)
    asking.start()
    running["reviews"].says("a slow request begins")
    same(running["reviews"].ends(by=signal.SIGTERM), -signal.SIGTERM)
    asking.join()
    same(answers, [{"slow": True}])
    same(running["workers"].ends(by=signal.SIGTERM), 0)
    for name in ("reviews", "workers", "visitor", "served"):
        same((name, "Traceback" in running[name].log()), (name, False))


@step
def loggers_have_names_that_can_be_configured():
    said = story.run("python", "logged.py")
    has(said, "ERROR meshsdk.controlplane ", "broken/mesh.yaml", "problem: ")


@step
def a_mesh_that_is_closed_leaves_no_thread():
    with meshsdk.Mesh(config="mesh") as mesh, mesh.client():
        mesh.explain("GET", REVIEWS)
        same(sorted(thread.name for thread in threading.enumerate()), ["MainThread", "meshsdk-control"])
    eventually(lambda: [thread.name for thread in threading.enumerate()] == ["MainThread"], "the thread's end")


if __name__ == "__main__":
    story.tell()
