"""A native grpcio xDS client, in a process of its own since grpc-core reads its bootstrap once.

    python -m tests.interop.native_client TARGET CALLS

Prints the answers, one a line.
"""

from __future__ import annotations

import sys

import grpc

if __name__ == "__main__":
    target, calls = sys.argv[1], int(sys.argv[2])
    with grpc.insecure_channel(target) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        for _ in range(calls):
            print(say(b"hello", timeout=20, wait_for_ready=True).decode())
