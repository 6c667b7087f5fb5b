"""A gRPC team: their generated code on the mesh's channels and servers."""

import asyncio
import signal
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ratings_pb2 import RateRequest
from ratings_pb2_grpc import RatingsStub
from telling import Process, Story, eventually, has, same

import meshsdk

SHOP = "spiffe://cluster.local/ns/shop/sa"
CANARY = (("x-canary", "yes"),)

story = Story("front", "ratings_v1", "ratings_v2", "probes_v1", "probes_v2")
step, port = story.step, story.port
running: dict[str, Process] = {}


@step
def the_folder_is_checked_and_what_channels_do_not_carry_out_is_said():
    story.fill("laptop.yaml", "mesh/laptop.yaml")
    has(story.run("meshsdk", "check", "mesh/"), "ok: ")


@step
def two_versions_of_ratings_on_asyncio_and_front_with_threads_are_started():
    for version in ("v1", "v2"):
        running[version] = story.start(
            f"ratings-{version}",
            *("python", "ratings.py"),
            MESHSDK_CONFIG="mesh",
            SPIFFE_ID=f"{SHOP}/ratings",
            VERSION=version,
            PORT=str(port[f"ratings_{version}"]),
            HEALTH_PORT=str(port[f"probes_{version}"]),
        )
    running["front"] = story.start(
        "front",
        *("python", "front.py"),
        MESHSDK_CONFIG="mesh",
        SPIFFE_ID=f"{SHOP}/front",
        PORT=str(port["front"]),
    )
    for process in running.values():
        process.says("serving")


@step
def a_channel_calls_by_the_name_in_the_mesh_and_the_server_knows_who_calls():
    global mesh, ratings
    mesh = story.until_the_end(meshsdk.Mesh(config="mesh", identity=f"{SHOP}/web"))
    ratings = RatingsStub(story.until_the_end(mesh.channel("ratings:9090")))
    rating = ratings.Rate(RateRequest(thing="lamp"), timeout=20)
    same((rating.stars, rating.version, rating.asked_by), (4, "v1", f"{SHOP}/web"))
    same([one.stars for one in ratings.Follow(RateRequest(thing="lamp"), timeout=20)], [1, 2, 3])


@step
def a_header_chooses_the_canary():
    same({ratings.Rate(RateRequest(thing="lamp"), timeout=20, metadata=CANARY).version for _ in range(5)}, {"v2"})
    same({ratings.Rate(RateRequest(thing="lamp"), timeout=20).version for _ in range(5)}, {"v1"})


@step
def a_channel_on_asyncio_does_the_same():
    async def visit() -> None:
        async with mesh.aio_channel("ratings:9090") as channel:
            stub = RatingsStub(channel)
            answers = await asyncio.gather(*(stub.Rate(RateRequest(thing="lamp"), timeout=20) for _ in range(20)))
            same({answer.version for answer in answers}, {"v1"})
            same((await stub.Rate(RateRequest(thing="lamp"), timeout=20, metadata=CANARY)).version, "v2")
            same([one.stars async for one in stub.Follow(RateRequest(thing="lamp"), timeout=20)], [1, 2, 3])

    asyncio.run(visit())


def _refusal(stub: RatingsStub, method: str) -> tuple[grpc.StatusCode, str]:
    try:
        found = getattr(stub, method)(RateRequest(thing="lamp"), timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"{method} was answered with {found!r}")


@step
def a_method_that_policy_does_not_name_is_refused_and_so_is_a_stranger():
    denied = (grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
    same(_refusal(ratings, "Reset"), denied)
    with meshsdk.Mesh(config="mesh", identity=f"{SHOP}/batch") as other, other.channel("ratings:9090") as channel:
        same(_refusal(RatingsStub(channel), "Rate"), denied)
    running["v1"].says("path='/shop.Ratings/Reset'", f"peer='{SHOP}/batch'")
    with grpc.insecure_channel(f"127.0.0.1:{port['ratings_v1']}") as channel:
        same(_refusal(RatingsStub(channel), "Rate")[0], grpc.StatusCode.UNAVAILABLE)


@step
def probes_ask_in_plaintext_at_a_port_of_their_own():
    with grpc.insecure_channel(f"127.0.0.1:{port['probes_v1']}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20)
    same(answer.status, health_pb2.HealthCheckResponse.SERVING)


@step
def a_callers_deadline_goes_on_through_front_to_ratings():
    with mesh.channel("front:9090") as channel:
        front = RatingsStub(channel)
        rating = front.Rate(RateRequest(thing="lamp"), timeout=25)
        same(rating.asked_by, f"{SHOP}/front")
        assert 0 < rating.seconds_left <= 25, rating.seconds_left


@step
def an_edit_of_the_yaml_moves_everybody_to_the_canary():
    path = Path("mesh/cluster.yaml")
    path.write_text(path.read_text().replace("subset: v1}}]", "subset: v2}}]"))
    eventually(lambda: ratings.Rate(RateRequest(thing="lamp"), timeout=20).version == "v2", "v2 without a header")


@step
def a_killed_replica_is_unavailable_and_the_status_says_what_channels_have():
    running["v2"].ends(by=signal.SIGKILL)
    same(_refusal(ratings, "Rate")[0], grpc.StatusCode.UNAVAILABLE)
    same(mesh.status()["problem"], "")
    same(mesh.status()["grpc"]["refused"], [])


if __name__ == "__main__":
    story.tell()
