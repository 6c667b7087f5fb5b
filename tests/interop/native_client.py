"""A native grpcio xDS client, in a process of its own since grpc-core reads its bootstrap once.

    python -m tests.interop.native_client TARGET CALLS [SECONDS]

Prints the answers, one a line. Its TLS is the management server's.
"""

from __future__ import annotations

import sys

import grpc
import grpc.experimental

if __name__ == "__main__":
    target, calls = sys.argv[1], int(sys.argv[2])
    timeout = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0
    credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
    with grpc.secure_channel(target, credentials) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        for _ in range(calls):
            print(say(b"hello", timeout=timeout, wait_for_ready=True).decode())
