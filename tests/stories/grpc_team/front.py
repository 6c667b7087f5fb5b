"""front: with threads; asks ratings for what it is asked, and gives no timeout of its own."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc
from ratings_pb2_grpc import RatingsServicer, RatingsStub, add_RatingsServicer_to_server

import meshsdk

PORT = int(os.environ["PORT"])

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))
ratings = RatingsStub(mesh.channel("ratings:9090"))


class Front(RatingsServicer):
    def Rate(self, request, context):
        return ratings.Rate(request)


def main():
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[mesh.server_interceptor(port=PORT)])
    add_RatingsServicer_to_server(Front(), server)
    server.add_secure_port(f"127.0.0.1:{PORT}", mesh.server_credentials())
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
