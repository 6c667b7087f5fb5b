"""What a story is told with. It is copied beside `story.py`, and knows of nothing but Python's own library.

A story is a file of steps in the order in which the documentation says them. A step is a function whose name is a
sentence; it does what a user does, and fails with what came instead of what the documentation promises.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import string
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

PATIENCE = 60.0  # seconds; it guards, and nothing takes so long
T = TypeVar("T")

_FOREIGN = ("GRPC_XDS", "MESHSDK_", "ISTIO", "POD_", "INSTANCE_IP", "SERVICE_ACCOUNT", "SPIFFE", "PYTHONPATH")


def clean_environment() -> dict[str, str]:
    """This environment as a stranger's is: nothing of a mesh or proxy in it, and the commands of this interpreter."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }
    return own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that systems give to whoever asks for any."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 2_000):
        if len(ports) == count:
            return ports
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    raise RuntimeError("too few ports are free")


def listening_ports(pid: int) -> dict[int, str]:
    """The TCP ports on which a process of this machine listens, with their addresses (Linux)."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:  # LISTEN
                address, _, port = columns[1].partition(":")
                loopback = address in ("0100007F", "00000000000000000000000001000000")
                found[int(port, 16)] = "loopback" if loopback else "every address"
    return found


def threads(pid: int) -> list[str]:
    """The names of a process's threads (Linux)."""
    return sorted(path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm"))


def memory_megabytes(pid: int) -> int:
    """A process's memory: its own, and its share of what it has in common with others (Linux's Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("the system does not tell")


def same(found: object, wanted: object) -> None:
    """Fail with what was found where it is not what is wanted."""
    assert found == wanted, f"wanted {wanted!r}, found {found!r}"


def has(text: str, *parts: str) -> str:
    """Fail with the text where a part of it is missing."""
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"
    return text


def eventually(holds: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Wait until something holds; what it was."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"it did not come: {what}"
        time.sleep(0.02)
    return found


class Process:
    """A program in a terminal of its own; what it prints is in a file."""

    def __init__(self, name: str, *command: str, **environment: str) -> None:
        self.name = name
        self.path = Path("logs") / f"{name}.log"
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab") as output:
            self.popen = subprocess.Popen(
                command, stdout=output, stderr=output, env=clean_environment() | environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def children(self) -> list[int]:
        """The processes that it has started and that run (Linux)."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def log(self) -> str:
        return self.path.read_text()

    def says(self, *parts: str) -> str:
        """Wait until it has printed all of these; all that it has printed."""

        def said() -> bool:
            log = self.log()
            assert self.popen.poll() is None or all(part in log for part in parts), (
                f"{self.name} ended with {self.popen.returncode}, after:\n{log}"
            )
            return all(part in log for part in parts)

        eventually(said, f"{parts} of {self.name}")
        return self.log()

    def ends(self, *, by: int | None = None) -> int:
        """Send it a signal, if one is given, and wait until it has ended; its code, negative for a signal."""
        if by is not None:
            self.popen.send_signal(by)
        return self.popen.wait(PATIENCE)


class Story:
    """Steps, the ports that they need, and the processes that they start."""

    def __init__(self, *ports: str) -> None:
        """
        Args:
            *ports: Names for ports. `fill` writes them into files, and `port` tells them.
        """
        self.port = dict(zip(ports, free_ports(len(ports)), strict=True))
        self._steps: list[Callable[[], None]] = []
        self._processes: list[Process] = []
        self._at_end = contextlib.ExitStack()

    def step(self, function: Callable[[], None]) -> Callable[[], None]:
        self._steps.append(function)
        return function

    def until_the_end(self, thing: Any) -> Any:
        """Enter a context that stays until the story is over."""
        return self._at_end.enter_context(thing)

    def fill(self, template: str, path: str) -> None:
        """Write a file from one in which `$name` is a port of this story."""
        Path(path).write_text(string.Template(Path(template).read_text()).substitute(self.port))

    def start(self, name: str, *command: str, **environment: str) -> Process:
        """Start a program, which is ended at the story's end."""
        process = Process(name, *command, **environment)
        self._processes.append(process)
        return process

    def run(self, *command: str, code: int | tuple[int, ...] = 0, **environment: str) -> str:
        """Run a command to its end; what it prints. It must end with `code`, or one of several."""
        done = subprocess.run(
            command,
            env=clean_environment() | {"COLUMNS": "160"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        codes = (code,) if isinstance(code, int) else code
        assert done.returncode in codes, f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def tell(self) -> None:
        """Do the steps one after the other, and end the process with 1 at the first that fails."""
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        for name in list(os.environ):
            if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
                del os.environ[name]
        try:
            with self._at_end:
                for step in self._steps:
                    self._do(step)
        finally:
            for process in self._processes:
                if process.popen.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.popen.wait()

    def _do(self, step: Callable[[], None]) -> None:
        sentence = step.__name__.replace("_", " ")
        start = time.monotonic()
        try:
            step()
        except Exception as error:
            print(f"  FAILED  {sentence}")
            traceback.print_exc(file=sys.stdout)
            for process in self._processes:
                print(f"--- {process.name}, at the end:\n{process.log()[-3000:]}")
            self._note(sentence, start, failed=True)
            raise SystemExit(1) from error
        self._note(sentence, start, failed=False)
        print(f"  {time.monotonic() - start:5.1f} s  {sentence}")

    def _note(self, sentence: str, start: float, *, failed: bool) -> None:
        with Path("steps.jsonl").open("a") as steps:
            steps.write(json.dumps({"step": sentence, "seconds": time.monotonic() - start, "failed": failed}) + "\n")
