"""gRPC on the mesh: a unary method and a conversation both ways, sync and asyncio. `python -m examples.grpc`."""
