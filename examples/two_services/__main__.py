"""Runs orders and stock, asks them as the YAML in mesh/ allows and as it does not, and changes it while they run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

import meshsdk
from examples.bookinfo.fleet import free_ports

SERVICES = {"orders": 8080, "stock": 8081}
ACCOUNTS = "spiffe://cluster.local/ns/default/sa/"
PATIENCE_SECONDS = 30.0


def main() -> int:
    """Start the services, ask them, say what was seen; 0 if that is what the YAML says."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="two-services-"))) / "mesh"
        shutil.copytree(Path(__file__).parent / "mesh", folder)
        ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        use_ports(folder / "services.yaml", ports)
        processes = [stack.enter_context(running(name, port, folder)) for name, port in ports.items()]
        until(lambda: all(map(listens, ports.values())) or any(one.poll() is not None for one in processes))
        shopper = stack.enter_context(meshsdk.Mesh(config=folder, identity=f"{ACCOUNTS}shopper"))
        client = stack.enter_context(shopper.client())
        return play(client, folder, ports)


def play(client: httpx.Client, folder: Path, ports: dict[str, int]) -> int:
    """Each step, and whether it went as the YAML says."""
    seen = []

    answer = client.get("http://orders/orders/lamp").json()
    print("a shopper asks orders, which asks stock:", answer)
    seen.append(answer == {"thing": "lamp", "left": 3, "path": "/v1/stock/lamp", "asked_by": f"{ACCOUNTS}orders"})

    refused = client.get("http://stock/stock/lamp")
    print("a shopper asks stock:", refused.status_code, refused.text)
    seen.append(refused.status_code == 403)

    try:
        httpx.get(f"http://127.0.0.1:{ports['stock']}/v1/stock/lamp", trust_env=False)
    except httpx.TransportError as error:
        print("somebody without a certificate asks stock:", type(error).__name__)
        seen.append(True)

    policy = folder / "security.yaml"
    policy.write_text(policy.read_text().replace("sa/orders]", "sa/orders, cluster.local/ns/default/sa/shopper]"))
    until(lambda: client.get("http://stock/stock/lamp").status_code == 200)
    print("the policy now names shoppers, who ask stock:", client.get("http://stock/stock/lamp").json())
    seen.append(True)

    print("each as the YAML says" if seen == [True] * 4 else f"not as the YAML says: {seen}")
    return 0 if seen == [True] * 4 else 1


@contextmanager
def running(name: str, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A service in a process of its own."""
    environment = {**os.environ, "MESHSDK_CONFIG": str(folder), "SPIFFE_ID": f"{ACCOUNTS}{name}"}
    command = [sys.executable, "-m", f"examples.two_services.{name}", str(port)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


def use_ports(path: Path, ports: dict[str, int]) -> None:
    """Put ports that are free on this machine in the place of those in the YAML."""
    text = path.read_text()
    for name, port in SERVICES.items():
        text = re.sub(rf"http: {port}\b", f"http: {ports[name]}", text)
    path.write_text(text)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It does not come true.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it takes too long")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
