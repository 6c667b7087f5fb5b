"""What only a process of its own can show: bootstraps of the application's, forks, crashes, exits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.grpc.engine.private_folder import PrivateFolder
from tests.conftest import service
from tests.grpc_server import GrpcServer
from tests.processes import CLEAN_ENVIRONMENT

from ..patience import PATIENCE

Serve = Callable[..., GrpcServer]
ROOT = Path(__file__).parents[2]


def run(
    script: str,
    *arguments: Any,
    environment: dict[str, str] | None = None,
    seconds: float = 60,
    prints_no_errors: bool = False,
) -> str:
    """Run a script in a new Python; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**CLEAN_ENVIRONMENT, **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # grpc-core begins lines with their level, time and thread.
    assert not prints_no_errors or not re.search(r"^E\d{4} ", done.stderr, re.MULTILINE), done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, serve: Serve) -> Path:
    """A folder with one service, ratings."""
    path = tmp_path / "mesh"
    path.mkdir()
    (path / "mesh.yaml").write_text(service("ratings", serve("mesh").port, port=9080))
    return path


@pytest.fixture
def application(tmp_path: Path, serve: Serve, stack: ExitStack) -> dict[str, Any]:
    """A bootstrap of the application's own, with a control plane behind it that knows `native`."""
    path = tmp_path / "application"
    path.mkdir()
    (path / "mesh.yaml").write_text(service("native", serve("native").port, port=80))
    server = ControlPlaneServer(Folder(path), "127.0.0.1:0")
    server.start()
    stack.callback(server.stop)
    uri = {"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}
    return {"xds_servers": [{**uri, "server_features": ["xds_v3"]}], "node": {"id": "application"}}


CALLS = """
    import os, sys, json, grpc, meshsdk
    def name(channel):
        return json.loads(channel.unary_unary("/test.Echo/Say")(b"", timeout=20, wait_for_ready=True))["name"]
    NATIVE = "xds:///native.default.svc.cluster.local:80"
"""


@pytest.mark.parametrize("variable", ["GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG"])
def test_the_applications_own_xds_channels_work_beside_the_mesh(
    folder: Path, application: dict[str, Any], tmp_path: Path, variable: str
) -> None:
    value = json.dumps(application)
    if variable == "GRPC_XDS_BOOTSTRAP":
        path = tmp_path / "bootstrap.json"
        path.write_text(value)
        value = str(path)
    script = (
        CALLS
        + """
    before = dict(os.environ)
    with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.channel("ratings:9080") as ratings:
        print(name(ratings))
        assert dict(os.environ) == before
        with grpc.insecure_channel(NATIVE) as native:
            print(name(native), name(ratings))
    """
    )
    assert run(script, folder, environment={variable: value}).split() == ["mesh", "native", "mesh"]


def test_xds_channels_that_were_opened_first_make_the_mesh_say_what_to_do(
    folder: Path, application: dict[str, Any]
) -> None:
    script = (
        CALLS
        + """
    native = grpc.insecure_channel(NATIVE)
    print(name(native))
    with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.channel("ratings:9080") as ratings:
        try:
            name(ratings)
        except meshsdk.UnsupportedFeatureError as error:
            print("refused", "before opening xds:/// channels" in str(error))
    print(name(native))
    """
    )
    output = run(script, folder, environment={"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(application)})
    assert output.split() == ["native", "refused", "True", "native"]


@pytest.mark.parametrize(
    ("value", "words"),
    [("{", "cannot be read"), ("[]", "not a JSON object"), ('{"authorities": {"meshsdk": {}}}', "choose another")],
)
def test_a_broken_bootstrap_of_the_applications_is_named(folder: Path, value: str, words: str) -> None:
    script = (
        CALLS
        + """
    with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.channel("ratings:9080") as ratings:
        try:
            name(ratings)
        except meshsdk.BootstrapError as error:
            print(error)
    """
    )
    assert words in run(script, folder, environment={"GRPC_XDS_BOOTSTRAP_CONFIG": value})


def test_a_mesh_made_before_a_fork_works_in_the_children(folder: Path) -> None:
    script = (
        CALLS
        + """
    mesh = meshsdk.Mesh(config=sys.argv[1])
    channel = mesh.channel("ratings:9080")
    say = channel.unary_unary("/test.Echo/Say")
    for _ in range(2):
        child = os.fork()
        if not child:
            print(json.loads(say(b"", timeout=20))["name"], flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    print(name(channel))
    """
    )
    assert run(script, folder).split() == ["mesh", "mesh", "mesh"]


def test_a_fork_after_the_first_call_is_told_what_to_do(folder: Path) -> None:
    script = (
        CALLS
        + """
    mesh = meshsdk.Mesh(config=sys.argv[1])
    print(name(mesh.channel("ratings:9080")), flush=True)
    child = os.fork()
    if not child:
        try:
            name(mesh.channel("ratings:9080"))
        except meshsdk.UnsupportedFeatureError as error:
            print("refused", "before this process was forked" in str(error), flush=True)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(*([f"ended-with-{status}"] if status else []), name(mesh.channel("ratings:9080")))
    """
    )
    assert run(script, folder).split() == ["mesh", "refused", "True", "mesh"]


def test_a_process_ends_by_itself_with_everything_left_open(folder: Path) -> None:
    """No thread of the relay's keeps the process alive, and its private folder goes with it."""
    script = (
        CALLS
        + """
    from meshsdk.grpc.engine.relay import _Process
    mesh = meshsdk.Mesh(config=sys.argv[1])
    channel = mesh.channel("ratings:9080")
    stream = channel.stream_stream("/test.Echo/Both")(iter([b"a"]), timeout=20)
    next(stream)
    print(name(channel), _Process.relay._folder.path)
    """
    )
    name, private = run(script, folder).split()
    assert name == "mesh"
    assert not Path(private).exists()


def test_a_process_ends_while_one_of_grpcs_threads_holds_the_lock_of_a_call(folder: Path, serve: Serve) -> None:
    """Without a Mesh it never does: the destructor of the call waits for a lock that nobody will open any more.

    The call is on a plain channel: one of a Mesh is in this state at one end of a process in a hundred.
    """
    script = (
        CALLS
        + """
    import queue
    waits = queue.SimpleQueue().get
    name(meshsdk.Mesh(config=sys.argv[1]).channel("ratings:9080"))
    channel = grpc.insecure_channel(sys.argv[2])
    call = channel.unary_unary("/test.Echo/Say", response_deserializer=waits).future(b"", timeout=20)
    while not any(frame.f_code.co_name == "_transform" for frame in sys._current_frames().values()):
        pass  # Until grpc's thread is in `waits`, from where it never comes back.
    print("ends")
    """
    )
    assert run(script, folder, f"127.0.0.1:{serve('plain').port}").split() == ["ends"]


def test_a_crashed_process_leaves_nothing_for_long(folder: Path) -> None:
    script = (
        CALLS
        + """
    import time
    from meshsdk.grpc.engine.relay import _Process
    mesh = meshsdk.Mesh(config=sys.argv[1])
    name(mesh.channel("ratings:9080"))
    print(_Process.relay._folder.path, flush=True)
    time.sleep(60)
    """
    )
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=CLEAN_ENVIRONMENT) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        alive = PrivateFolder(left.parent)
        assert left.exists()  # Its process lives.
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert left.exists()
    other = PrivateFolder(left.parent)
    assert not left.exists()
    assert alive.path.exists()
    for one in (alive, other):
        one.remove()


def test_folders_of_other_users_and_links_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    link = tmp_path / f"meshsdk-{os.getuid()}-link"
    link.symlink_to(precious)
    fresh = tmp_path / f"meshsdk-{os.getuid()}-fresh"
    fresh.mkdir()  # No lock yet: a process may be about to make it.
    old = tmp_path / f"meshsdk-{os.getuid()}-old"
    old.mkdir()
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    made = PrivateFolder(tmp_path)
    assert (precious / "file").exists()
    assert fresh.exists()
    assert not old.exists()
    made.remove()
    made.remove()
    assert not made.path.exists()


@pytest.mark.soak  # It waits until grpc-core stops to wait; `test_relay.py` asks the relay itself.
def test_grpc_core_misses_nothing_and_prints_no_error(folder: Path) -> None:
    output = run(
        CALLS
        + """
    import time
    with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.channel("ratings:9080") as channel:
        print(name(channel))
        time.sleep(16)
        print(name(channel))
    """,
        folder,
        prints_no_errors=True,
    )
    assert output == "mesh\nmesh\n"
