"""`make bench`: every bar as a ratio in one run; prints a table and writes JSON."""

from __future__ import annotations

import asyncio
import json
import math
import platform
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import meshsdk
from meshsdk.resources import PathMatchKind
from tests.benchmarks import (
    folders,
    fronts,
    grpc_channels,
    imports,
    metrics,
    scale,
    servers,
    sidecars,
    storm,
    throughput,
    uploads,
)
from tests.benchmarks.bare_bones import AsyncBareBones, BareBones
from tests.benchmarks.configuration import write_large, write_small
from tests.benchmarks.decisions import picks_per_second, reading_ratio, route_cost_ratio, update_ratio
from tests.benchmarks.instant import make_instant
from tests.benchmarks.measure import async_throughput, median_seconds, ratio, sync_throughput
from tests.processes import envoy, free_ports, http_listener, nginx

ROUNDS = 5


@dataclass(frozen=True)
class Result:
    """One bar."""

    name: str
    value: float
    bar: float
    unit: str
    detail: str
    more_is_better: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the bar is met; a yardstick has none."""
        if math.isnan(self.bar):
            return True
        return self.value >= self.bar if self.more_is_better else self.value <= self.bar


@dataclass(frozen=True)
class Setup:
    """What is running: a mesh, and the bare URLs to compare with."""

    mesh: meshsdk.Mesh
    mesh_url: str
    bare_url: str
    envoy_url: str


def main() -> None:
    """Run all, print, write."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshsdk-bench-")))
        ports = free_ports(4)
        upstream = stack.enter_context(nginx(ports[:3], folder))
        stack.enter_context(envoy(_envoy_config(ports[3], ports[:3]), [ports[3]], folder))
        mesh = stack.enter_context(meshsdk.Mesh(config=write_small(folder / "small", ports[:3])))
        setup = Setup(mesh, "http://bench/reviews/1", f"http://127.0.0.1:{ports[0]}/", f"http://127.0.0.1:{ports[3]}/")
        results = _run(setup, folder)
    _report(results, upstream)
    sys.exit(any(result.value == math.inf for result in results))


def _run(setup: Setup, folder: Path) -> list[Result]:
    steps: list[Callable[[], list[Result]]] = [
        lambda: [_one_in_flight(setup)],
        lambda: _throughput(setup),
        lambda: _yardsticks(setup),
        lambda: _decision_cost(setup, folder),
        _fronts,
        _decisions_alone,
        _uploads,
        _imports,
        _folders,
        _scale,
        _storm,
        _sidecars,
        _grpc_channels,
        _servers,
        lambda: _metrics(folder),
    ]
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("benchmarks", total=len(steps))
        for step in steps:
            try:
                results += step()
            except Exception:  # noqa: BLE001 - the others were measured all the same.
                results.append(Result("a measurement failed", math.inf, 0, "", traceback.format_exc()[-500:], False))
            progress.advance(task)
    return results


_THROUGHPUT_BARS = {
    "asyncio, 100 in flight: meshed httpx over bare httpx": 12.0,
    "asyncio, 100 in flight: meshed httpx over Envoy httpx": 15.0,
    "asyncio, 100 in flight: meshed httpx over bare aiohttp": 0.8,
    "asyncio, 100 in flight: p99 over p50, meshed httpx": 3.0,
    "sync: meshed httpx over bare httpx": 1.5,
    "sync: meshed httpx over Envoy httpx": 3.0,
    "sync: meshed requests over bare requests": 1.3,
}


def _throughput(setup: Setup) -> list[Result]:
    """Requests a second against those of others, and how even latency is."""
    found = throughput.measure(setup.mesh, setup.mesh_url, setup.bare_url, setup.envoy_url)
    return [
        Result(name, value, _THROUGHPUT_BARS.get(name, math.nan), "×", "", more_is_better="p99" not in name)
        for name, value in found.items()
    ]


def _one_in_flight(setup: Setup) -> Result:
    async def run() -> tuple[float, str]:
        async with setup.mesh.async_client() as meshed, httpx.AsyncClient() as bare:
            pairs = [
                (
                    await async_throughput(meshed, setup.mesh_url, 3000, 1),
                    await async_throughput(bare, setup.bare_url, 1000, 1),
                )
                for _ in range(ROUNDS + 1)
            ][1:]
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        return ratio(pairs), f"{medians[0]:,.0f} against {medians[1]:,.0f} requests/s"

    value, detail = asyncio.run(run())
    return Result("async, 1 in flight: meshed httpx over bare httpx", value, 2.2, "×", detail)


def _yardsticks(setup: Setup) -> list[Result]:
    """What an engine with no mesh at all reaches here, and how much of that the mesh keeps.

    The ratios above depend on the machine's share in them; these do not. Their bars are the ratios' own bars over what
    a bare-bones engine reached where those were set (2.6, 16 and 1.8).
    """
    port = httpx.URL(setup.bare_url).port or 80

    async def run(in_flight: int, requests: int) -> list[tuple[float, float, float]]:
        async with (
            setup.mesh.async_client() as meshed,
            httpx.AsyncClient(transport=AsyncBareBones(port)) as bones,
            httpx.AsyncClient() as bare,
        ):
            rounds = [
                (
                    await async_throughput(meshed, setup.mesh_url, requests * 3, in_flight),
                    await async_throughput(bones, setup.bare_url, requests * 3, in_flight),
                    await async_throughput(bare, setup.bare_url, requests, in_flight),
                )
                for _ in range(ROUNDS + 1)
            ]
        return rounds[1:]

    results = []
    for in_flight, requests, bar in ((1, 1500, 2.2 / 2.6), (100, 800, 12 / 16)):
        results += _yardstick(f"async, {in_flight} in flight", asyncio.run(run(in_flight, requests)), bar)
    with (
        setup.mesh.client() as meshed,
        httpx.Client(transport=BareBones(port)) as bones,
        httpx.Client() as bare,
    ):
        rounds = [
            (
                sync_throughput(meshed, setup.mesh_url, 2000),
                sync_throughput(bones, setup.bare_url, 2000),
                sync_throughput(bare, setup.bare_url, 2000),
            )
            for _ in range(ROUNDS + 1)
        ]
    return results + _yardstick("sync", rounds[1:], 1.5 / 1.8)


def _yardstick(name: str, rounds: list[tuple[float, float, float]], bar: float) -> list[Result]:
    reached = ratio([(bones, bare) for _, bones, bare in rounds])
    kept = ratio([(meshed, bones) for meshed, bones, _ in rounds])
    return [
        Result(f"yardstick: bare-bones engine, {name}", reached, math.nan, "×", "against bare httpx"),
        Result(f"kept of it by the mesh, {name}", kept, round(bar, 2), "×", "against the bare-bones engine"),
    ]


class _Nothing(httpx.BaseTransport):
    """Answers at once."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=[(b"content-length", b"0")], stream=httpx.ByteStream(b""))


@contextmanager
def _instant_client(mesh: meshsdk.Mesh) -> Iterator[httpx.Client]:
    """A client as `Mesh.client` gives it."""
    with mesh.client() as client:
        make_instant(client._transport, [(b"content-length", b"0")])
        yield client


def _decision_cost(setup: Setup, folder: Path) -> list[Result]:
    with ExitStack() as stack:
        large = stack.enter_context(meshsdk.Mesh(config=write_large(folder / "large", 1000, 10_000)))
        small_config = write_large(folder / "one", 1, 3)
        small = stack.enter_context(meshsdk.Mesh(config=small_config))
        large.wait_ready("bench", 60)
        clients = [stack.enter_context(_instant_client(mesh)) for mesh in (setup.mesh, small, large)]
        nothing = stack.enter_context(type(clients[0])(transport=_Nothing()))
        urls = [setup.mesh_url, "http://bench/x", "http://bench/x"]
        rounds = []
        for _ in range(ROUNDS + 1):
            base = median_seconds(lambda: nothing.get(setup.mesh_url), 3000)
            rounds.append(
                [
                    median_seconds(lambda client=client, url=url: client.get(url), 3000) - base
                    for client, url in zip(clients, urls, strict=True)
                ]
            )
    istio, few, many = (statistics.median(side) * 1e6 for side in zip(*rounds[1:], strict=True))
    return [
        Result("decision cost of a request", istio, 15.0, "µs", "over a transport that does nothing", False),
        Result(
            "the same with 1,000 virtual hosts and 10,000 endpoints",
            many / few,
            1.3,
            "×",
            f"{many:.1f} against {few:.1f} µs",
            False,
        ),
    ]


def _fronts() -> list[Result]:
    """CPU of a request, for who sends it."""
    results = []
    for name, (over_nothing, of_bare) in fronts.ratios(fronts.measure()).items():
        is_first = not name.endswith("async 1")
        detail = "CPU of the client's process"
        results.append(
            Result(
                f"meshed {name}, over httpx that does nothing",
                over_nothing,
                1.2 if is_first else math.nan,
                "×",
                detail,
                False,
            )
        )
        bar = {"httpx sync": 3.0, "httpx async 1": 4.5, "httpx async 100": 30.0}.get(name, math.nan)
        results.append(Result(f"bare {name}, over meshed", of_bare, bar, "×", detail))
    return results


def _scale() -> list[Result]:
    """What a change costs, by how large the mesh is."""
    results = []
    for services in scale.SIZES:
        for variant, features in scale.VARIANTS.items():
            found = scale.measure_apart(services, features)
            effect, settled = found["effect_milliseconds"], found["settled_seconds"]
            detail = f"{variant}; in effect in {effect:.1f} ms; all settled in {settled:.1f} s"
            name = f"one endpoint of {services:,} services changed, control thread"
            results.append(Result(name, found["control_milliseconds"], 1.0, "ms", detail, more_is_better=False))
    return results


def _storm() -> list[Result]:
    """Requests while configuration changes."""
    found = storm.measure_apart(10.0)
    detail = f"{found['storm_p99']:.1f} against {found['rest_p99']:.1f} ms, {found['lost']:.0f} changes lost"
    name = (
        f"p99 of {storm.REQUESTS:,} requests a second while {storm.CHANGES} endpoints change a second, over p99 at rest"
    )
    return [Result(name, found["storm_p99"] / found["rest_p99"], 1.2, "×", detail, more_is_better=False)]


def _sidecars() -> list[Result]:
    """What a process has in memory of a mesh that is sent to it as a whole."""
    results = []
    for variant, features in sidecars.VARIANTS.items():
        memory, took = sidecars.memory_over_idle(sidecars.SERVICES, features)
        name = (
            f"{sidecars.REFERENCED} services of {sidecars.SERVICES:,} called in profile sidecar, over an idle process"
        )
        results.append(Result(name, memory, 30, "MB", f"{variant}; known in {took:.1f} s", more_is_better=False))
    return results


def _decisions_alone() -> list[Result]:
    """Routes and picks without requests around them."""
    results = [
        Result(
            f"1,000 {kind.value} routes in one virtual host, vs 10",
            route_cost_ratio(kind),
            3.0,
            "×",
            "finding the last one",
            more_is_better=False,
        )
        for kind in (PathMatchKind.EXACT, PathMatchKind.PREFIX)
    ]
    results += [
        Result(f"picks among 10,000 endpoints: {name}", rate, 100_000, "/s", "equal or unequal weights")
        for name, rate in picks_per_second().items()
    ]
    results.append(
        Result(
            "one endpoint of 10,000 changed, vs all brought in",
            update_ratio(),
            0.5,
            "×",
            "statistics are kept, not copied",
            more_is_better=False,
        )
    )
    results.append(
        Result(
            "endpoints read, vs made dictionaries of by protobuf",
            reading_ratio(),
            math.nan,
            "×",
            "2,000 assignments of 10 endpoints, checked and noted",
            more_is_better=False,
        )
    )
    return results


def _uploads() -> list[Result]:
    return [
        Result(f"upload, {kind}, against bare httpx", value, 1.0, "×", f"{ours:,.0f} against {theirs:,.0f} MiB/s")
        for kind, (value, ours, theirs) in uploads.measure().items()
    ]


def _grpc_channels() -> list[Result]:
    """Channels of a Mesh against grpc-core's own xDS channels."""
    measured = grpc_channels.measure()
    results = []
    for part, bars in (("untraced", (0.95, 0.98)), ("traced", (0.85, math.nan)), ("sampled", (math.nan, math.nan))):
        words = {"untraced": "tracing off", "traced": "every call traced", "sampled": "one in ten traced"}[part]
        for name, (value, ours, theirs) in measured[part].items():
            unit = "messages/s" if name == "streaming" else "calls/s"
            bar = bars[1] if name == "streaming" else bars[0]
            results.append(
                Result(
                    f"gRPC {name}, {words}, against native xDS",
                    value,
                    bar,
                    "×",
                    f"{ours:,.0f} against {theirs:,.0f} {unit}",
                )
            )
    for part, words, bar in (
        ("start", "channel() to first response, new process", 1.2),
        ("warm", "channel() to first response, Mesh at work", 1.2),
    ):
        value, ours, theirs = measured[part]
        detail = f"{ours * 1000:.1f} against {theirs * 1000:.1f} ms"
        results.append(Result(f"gRPC {words}, against native", value, bar, "×", detail, False))
    value, ours, theirs = measured["memory"]
    detail = f"{ours / 1024:.0f} against {theirs / 1024:.0f} KiB"
    results.append(Result("gRPC memory of one more channel, against native", value, math.nan, "×", detail, False))
    return results


def _folders() -> list[Result]:
    """What a folder costs before it serves."""
    measured = folders.measure()
    dump = "200 Services, 1,000 pods, 3.6 MB of kubectl's YAML"
    rules = "1,000 Services with 3 subsets, 1,000 VirtualServices, 10,000 endpoints"
    bars = [
        ("meshsdk check of a dump", "check", 1.5, "s", dump),
        ("meshsdk check of a dump in JSON", "check of JSON", 1.5, "s", "the same"),
        ("first answer of a Mesh over a dump", "first answer", 1.0, "s", "the same, in YAML"),
        ("memory that it adds", "memory", 60.0, "MiB", "at its peak"),
        ("a folder of rules, read and translated", "rules", 2.0, "s", rules),
        ("the same after an edit of one document", "one edit", 0.05, "s", "a timeout"),
    ]
    return [Result(name, measured[key], bar, unit, words, False) for name, key, bar, unit, words in bars]


def _metrics(folder: Path) -> list[Result]:
    """Istio's metrics, on and off."""
    results = []
    for name, measure in (("httpx", metrics.client_cost), ("ASGI", metrics.asgi_cost)):
        more, base = measure(folder)
        results.append(
            Result(f"Istio's metrics of a request, {name}", more, 10.0, "µs", f"over {base:.0f} µs without", False)
        )
    return results


def _servers() -> list[Result]:
    """Inbound policy, against none and against an Envoy in front."""
    measured = servers.measure()
    added = (
        f"identity, 20 RBAC rules and a span, over the bare application; the span alone {measured['span_us']:.0f} µs"
    )
    sampled = "as above, one request in a hundred traced, as Istio does by default"
    results = [
        Result("inbound policy, FastAPI", measured["fastapi_us"], 60.0, "µs", added, False),
        Result("inbound policy, Flask", measured["flask_us"], 50.0, "µs", added, False),
        Result("the same, FastAPI, 1% traced", measured["fastapi_sampled_us"], 60.0, "µs", sampled, False),
        Result("the same, Flask, 1% traced", measured["flask_sampled_us"], 50.0, "µs", sampled, False),
    ]
    for part, words in (("one_cpu", "one processor for all"), ("every_cpu", "no limit")):
        figures = measured[part]
        ours, theirs = figures["p50_ms"]
        rates = "{:,.0f} against {:,.0f} requests/s".format(*figures["requests_a_second"])
        name = f"mesh.serve with mutual TLS, against an Envoy in front, {words}"
        results.append(Result(name, figures["throughput"], 1.5, "×", rates))
        latencies = f"{ours:.2f} against {theirs:.2f} ms"
        results.append(Result("its median latency, against the same", ours / theirs, 1.0, "×", latencies, False))
    return results


def _imports() -> list[Result]:
    measured = imports.measure()
    value = measured["meshsdk"] / measured["httpx"]
    detail = f"{measured['meshsdk'] * 1000:.0f} against {measured['httpx'] * 1000:.0f} ms of CPU"
    return [
        Result("from meshsdk import Mesh, against import httpx", value, 0.5, "×", detail, False),
        Result(
            "Mesh() over a folder to its first response, new process", measured["first"] * 1000, 60, "ms", "", False
        ),
    ]


def _envoy_config(port: int, upstreams: list[int]) -> dict[str, object]:
    retry = {"retry_on": "connect-failure,reset,retriable-status-codes", "num_retries": 2}
    forward = {"cluster": "bench", "timeout": "10s", "retry_policy": retry}
    routes = [
        {"match": {"prefix": "/admin/"}, "route": forward},
        {
            "match": {"prefix": "/", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]},
            "route": forward,
        },
        {"match": {"path": "/status"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/"}, "route": forward},
    ]
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
        for upstream in upstreams
    ]
    cluster = {
        "name": "bench",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    return {"static_resources": {"listeners": [http_listener(port, routes)], "clusters": [cluster]}}


def _report(results: list[Result], upstream: str) -> None:
    table = Table("measure", "value", "bar", "", "detail", title=f"upstream: {upstream}")
    for result in results:
        sign = "≥" if result.more_is_better else "≤"
        met = "[green]met[/green]" if result.is_met else "[red]missed[/red]"
        bar = "" if math.isnan(result.bar) else f"{sign} {result.bar:g}"
        table.add_row(result.name, f"{result.value:.2f} {result.unit}", bar, met if bar else "", result.detail)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    document = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "upstream": upstream,
        "results": [
            {**asdict(result), "bar": None if math.isnan(result.bar) else result.bar, "met": result.is_met}
            for result in results
        ],
    }
    path = folder / "bench.json"
    path.write_text(json.dumps(document, indent=2))
    Console().print(f"written to {path}")


if __name__ == "__main__":
    main()
