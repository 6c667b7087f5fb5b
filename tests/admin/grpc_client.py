"""A process of gRPC's own: an xDS channel, and a server that tells of it. Prints its port and what it was answered."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc_csds

server = grpc.server(ThreadPoolExecutor(4))
grpc_csds.add_csds_servicer(server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(sys.argv[1])
try:
    answer = channel.unary_unary("/x/y")(b"", timeout=float(sys.argv[2])).decode()
except grpc.RpcError as error:
    answer = error.code().name
print(port, answer, flush=True)
sys.stdin.read()
