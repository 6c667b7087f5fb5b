"""ratings: on asyncio, with a port of its own for probes."""

import asyncio
import os

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ratings_pb2 import Rating
from ratings_pb2_grpc import RatingsServicer, add_RatingsServicer_to_server

import meshsdk

VERSION, PORT, PROBES = os.environ["VERSION"], int(os.environ["PORT"]), int(os.environ["HEALTH_PORT"])

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))


class Ratings(RatingsServicer):
    async def Rate(self, request, context):
        return Rating(
            stars=len(request.thing),
            version=VERSION,
            asked_by=context.peer_identities()[0].decode(),
            seconds_left=context.time_remaining() or 0,
        )

    async def Follow(self, request, context):
        for stars in range(1, 4):
            yield Rating(stars=stars, version=VERSION)

    async def Reset(self, request, context):
        return Rating()


async def main():
    server = grpc.aio.server(interceptors=[mesh.aio_server_interceptor(port=PORT)])
    add_RatingsServicer_to_server(Ratings(), server)
    server.add_secure_port(f"127.0.0.1:{PORT}", mesh.server_credentials())
    await server.start()

    probes = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, probes)
    probes.add_insecure_port(f"127.0.0.1:{PROBES}")
    await probes.start()

    print("serving", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
