"""Runs two versions of the greeter, and calls them as the YAML in mesh/ says: sync, then asyncio."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from google.protobuf.wrappers_pb2 import StringValue

import meshsdk
from examples.grpc.greeter_api import GreeterStub

CALLS = 200
SAID = ("good morning", "and good night")


def main() -> int:
    """Start the servers, call them, say what was seen; 0 if that is what the YAML says."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="greeter-"))) / "mesh"
        shutil.copytree(Path(__file__).parent / "mesh", folder)
        for version, port in (("v1", 50061), ("v2", 50062)):
            free = stack.enter_context(greeter(version, folder))
            path = folder / "greeter.yaml"
            path.write_text(re.sub(rf"grpc: {port}", f"grpc: {free}", path.read_text()))
        mesh = stack.enter_context(meshsdk.Mesh(config=folder))
        sync, asynchronous = call(mesh), asyncio.run(call_async(mesh))
    for name, seen in (("sync", sync), ("asyncio", asynchronous)):
        print(f"{name}: {dict(seen)}")
    return 0 if all(0 < seen["v2"] < seen["v1"] for seen in (sync, asynchronous)) else 1


def call(mesh: meshsdk.Mesh) -> Counter[str]:
    """With a sync channel."""
    with mesh.channel("greeter:50051") as channel:
        stub = GreeterStub(channel)
        seen = Counter(stub.hello(StringValue(value="Ann"), timeout=20).value[:2] for _ in range(CALLS))
        print(stub.hello(StringValue(value="Tom"), timeout=20, metadata=[("role", "tester")]).value)
        for answer in stub.talk(iter(map(_message, SAID)), timeout=20):
            print(answer.value)
    return seen


async def call_async(mesh: meshsdk.Mesh) -> Counter[str]:
    """With an asyncio channel, many calls at a time."""
    async with mesh.aio_channel("greeter:50051") as channel:
        stub = GreeterStub(channel)
        answers = await asyncio.gather(*(stub.hello(StringValue(value="Ann"), timeout=20) for _ in range(CALLS)))

        async def say() -> AsyncIterator[StringValue]:
            for text in SAID:
                yield _message(text)

        async for answer in stub.talk(say(), timeout=20):
            print(answer.value)
    return Counter(answer.value[:2] for answer in answers)


def _message(text: str) -> StringValue:
    return StringValue(value=text)


@contextmanager
def greeter(version: str, folder: Path) -> Iterator[int]:
    """A greeter in a process of its own, and its port."""
    command = [sys.executable, "-m", "examples.grpc.server", version, "0"]
    environment = {**os.environ, "MESHSDK_CONFIG": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
