"""A native grpcio xDS server, in a process of its own since grpc-core reads its bootstrap once.

    python -m tests.interop.native_server PORT

Answers with the peer's SPIFFE IDs, until its input ends. Its TLS and its policies are the management server's.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


class _WhoAsks(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        def say(request: bytes, context: Any) -> bytes:
            return b" ".join(context.auth_context().get("peer_spiffe_id", [b"nobody"]))

        return grpc.unary_unary_rpc_method_handler(say)


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(4), xds=True)
    server.add_generic_rpc_handlers((_WhoAsks(),))
    server.add_secure_port(f"127.0.0.1:{sys.argv[1]}", grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    server.start()
    print("started", flush=True)
    sys.stdin.read()
    server.stop(0)
