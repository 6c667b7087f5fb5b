"""Runs the blocks of a page as they are printed: in order, in a folder that is the page's own, as a reader would.

    python                     run, in one interpreter, as cells of a notebook: in a loop, and await may be at the top
    … title="app.py"           written to that file, whatever the language; YAML in a folder is checked as a mesh
    text title="Output"        what the Python block before it has printed
    console                    each `$ command` is run, and prints what follows it
    console title="Terminal 1" the same, but it runs on until the page ends

In what is printed an ellipsis stands for anything, alone on a line for any number of lines; points of time, UUIDs and
ports that systems choose stand for others. Ports of servers are replaced throughout a page by free ones. A page without
a `mesh/` of its own meets that of examples/bookinfo, whose services answer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from meshsdk.controlplane.folder import load
from tests.patience import PATIENCE, eventually
from tests.processes import CLEAN_ENVIRONMENT, free_ports
from tests.servers import EchoServer

from .health_server import health_server
from .manifests import check_objects
from .pages import ROOT, Block

__all__ = ["PageRun"]

BOOKINFO = ROOT / "examples" / "bookinfo" / "mesh"
HTTP_SERVICES = {9080: "productpage", 9081: "details", 9082: "reviews v1", 9083: "reviews v2", 9084: "reviews v3"}
GRPC_SERVICES = (9085, 9086)
PORTS = (8000, 8001, 8080, 8081, 8082, 8443, 9090, 15000, 15001, 15010, 15020, 15021, 50051)

# What is another one each time; and what ports that are longer make of a table.
_OTHERS = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(?:Z|[+-]\d\d:\d\d)", "TIME"),
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"(?<=127\.0\.0\.1:)[2-6]\d{4}\b", "PORT"),
    (r"[ ─━]+", " "),
)

DRIVER = r"""
import ast, asyncio, inspect, json, sys, traceback
names, loop = {"__name__": "__main__"}, asyncio.new_event_loop()
asyncio.set_event_loop(loop)
sys.path.insert(0, "")
async def run(text, place):
    made = eval(compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(made):
        await made
for line in sys.stdin:
    place, text = json.loads(line)
    done = "done"
    try:
        loop.run_until_complete(run(text, place))
    except BaseException:
        done = "failed"
        traceback.print_exc(file=sys.stdout)
    print(f"\0{done}", flush=True)
"""


class PageRun:
    """A page that is being read.

    Args:
        blocks: The page's.
        folder: An empty one.
    """

    def __init__(self, blocks: list[Block], folder: Path) -> None:
        self.blocks = blocks
        self.folder = folder
        printed = [*PORTS, *HTTP_SERVICES, *GRPC_SERVICES]
        self._ports = dict(zip(map(str, printed), map(str, free_ports(len(printed))), strict=True))
        self._stack = ExitStack()
        self._unchecked: set[Path] = set()
        self._interpreter: subprocess.Popen[str] | None = None
        self._output, self._is_done = "", True
        self._runs = self._was_edited = False
        self._environment = {
            **CLEAN_ENVIRONMENT,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "COLUMNS": "160",
            "PYTHONUNBUFFERED": "1",
        }
        if not any(block.title.startswith("mesh/") for block in blocks):
            self._meet_bookinfo()

    def __enter__(self) -> PageRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, block: Block) -> None:
        """Do with one block what a reader would."""
        text = self._with_free_ports(block.text)
        if block.title == "Output":
            assert block.language == "text"
            self._check_output(block, text)
        elif block.language == "console":
            self._check_folders()
            self._run_commands(block, text)
        elif block.title:
            self._write(self.folder / block.title, text)
        else:
            self._check_folders()
            self._run_python(block, text)
            # Whoever edits a file is seconds away from the next line, and the mesh follows in less: see its output.
            after = self.blocks[self.blocks.index(block) + 1 :]
            is_tried_again = self._was_edited and after and after[0].title == "Output"
            assert self._is_done or is_tried_again, f"{block}\n{self._output}"

    # Files.

    def _write(self, path: Path, text: str) -> None:
        assert path.is_relative_to(self.folder), path
        self._was_edited = self._was_edited or path.exists() or self._runs
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix == ".py":
            compile(text, path.name, "exec")
        elif path.suffix in (".yaml", ".json"):
            check_objects(text)
            if path.parent != self.folder:
                self._unchecked.add(path.parent)

    def _check_folders(self) -> None:
        """As `meshsdk check` would: a page's folders have no errors, and nothing that is without effect."""
        while self._unchecked:
            state = load(self._unchecked.pop())
            assert [problem.text for problem in state.problems] == []

    # Python.

    def _run_python(self, block: Block, text: str) -> None:
        self._last = block, text
        if self._interpreter is None:
            errors = self._stack.enter_context((self.folder / "stderr").open("w"))
            self._interpreter = self._start([sys.executable, "-c", DRIVER], errors)
        assert self._interpreter.stdin is not None
        # Tracebacks then name the page and its line.
        self._interpreter.stdin.write(json.dumps([str(block), "\n" * (block.line - 1) + text]) + "\n")
        self._interpreter.stdin.flush()
        lines = []
        for line in self._interpreter.stdout or ():
            if line.startswith("\0"):
                self._output, self._is_done = "".join(lines), line == "\0done\n"
                return
            lines.append(line)
        raise AssertionError(f"{block}: the interpreter has ended\n{(self.folder / 'stderr').read_text()}")

    def _check_output(self, block: Block, printed: str) -> None:
        deadline = time.monotonic() + (PATIENCE / 4 if self._was_edited else 0)
        while not (self._is_done and _is_printed(printed, self._output)) and time.monotonic() < deadline:
            time.sleep(0.05)
            self._run_python(*self._last)
        self._compare(block, printed, self._output)

    # Commands.

    def _run_commands(self, block: Block, text: str) -> None:
        for command, printed in _commands_of(text):
            if block.title:
                self._run_in_terminal(block, command.removesuffix(" &"), printed)
            else:
                self._compare(block, printed, self._of(command))

    def _of(self, command: str) -> str:
        """What a command prints."""
        process = self._start(["bash", "-c", command])
        output, _ = process.communicate(timeout=PATIENCE)
        return output

    def _run_in_terminal(self, block: Block, command: str, printed: str) -> None:
        process = self._start(["bash", "-c", command])
        self._runs = True
        lines: list[str] = []

        def follow() -> None:
            for line in process.stdout or ():
                lines.append(line)

        threading.Thread(target=follow, daemon=True).start()

        def has_printed() -> bool:
            assert process.poll() is None, f"{block}: {command} has ended\n{''.join(lines)}"
            return _is_printed(printed + "\n…", "".join([*lines, "\n"]))

        try:
            eventually(has_printed, seconds=PATIENCE / 2)
        except AssertionError as error:
            raise AssertionError(
                f"{block}: {error}\n{printed}\n--- is not what it prints:\n{''.join(lines)}"
            ) from error

    def _start(self, command: list[str], errors: Any = subprocess.STDOUT) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        return process

    # What is printed.

    def _compare(self, block: Block, printed: str, output: str) -> None:
        assert _is_printed(printed, output), f"{block}\n{printed}\n--- is not what it prints:\n{output}"

    def _with_free_ports(self, text: str) -> str:
        return re.sub(r"\b\d{4,5}\b", lambda found: self._ports.get(found[0], found[0]), text)

    # Where others answer.

    def _meet_bookinfo(self) -> None:
        for path in BOOKINFO.glob("*.yaml"):
            self._write(self.folder / "mesh" / path.name, self._with_free_ports(path.read_text()))
        for port, name in HTTP_SERVICES.items():
            self._stack.enter_context(EchoServer(name, int(self._ports[str(port)])))
        for port in GRPC_SERVICES:
            self._stack.enter_context(health_server(int(self._ports[str(port)])))
        self._environment["MESHSDK_CONFIG"] = "mesh"


def _commands_of(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console, each with what follows it."""
    parts = re.split(r"^\$ ", text, flags=re.M)
    assert parts[0] == "", "a console begins with a command"
    for part in parts[1:]:
        lines = part.splitlines()
        last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
        yield "\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :])


def _is_printed(printed: str, output: str) -> bool:
    """Whether output is as it is printed, but for ellipses, and for spaces and lines of tables, which ports widen."""
    lines = [re.escape(line).replace("…", ".*") for line in _plain(printed)]
    pattern = "".join(r"(?:.*\n)*" if line == ".*" else f"{line}\n" for line in lines)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(output))) is not None


def _plain(text: str) -> list[str]:
    for pattern, one in _OTHERS:
        text = re.sub(pattern, one, text)
    return [line.strip() for line in text.strip("\n").splitlines()]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
