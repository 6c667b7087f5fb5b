"""Thousands of generated decisions: meshsdk's and the real Envoy's are the same.

`pytest tests/differential -s` prints how often each field was met. A difference is shrunk by hypothesis and belongs
into `test_known_cases` once it is understood.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from meshsdk.balancing import Cluster
from meshsdk.errors import ResourceError
from meshsdk.resources import Listener

from .compare import compare
from .generate import CLUSTERS, FILTERS, OPTIONS, make_request, route_configurations
from .judge import EnvoyJudge, Request, running_judge
from .ours import OurRoutes, make_clusters, make_listener
from .shrink import smallest
from .upstream import EchoUpstreams

REQUESTS_PER_CONFIGURATION = 40
# By default always the same, so that a run says something about the change; other seeds find more.
CONFIGURATIONS = int(os.environ.get("MESHSDK_DIFFERENTIAL_EXAMPLES", "750"))
SEED = int(os.environ.get("MESHSDK_DIFFERENTIAL_SEED", "1"))


class Bench:
    """Both sides, ready to be asked."""

    def __init__(self, judge: EnvoyJudge, clusters: dict[str, Cluster]) -> None:
        self.judge = judge
        self.clusters = clusters
        self.listeners: dict[str, Listener] = {one.name: make_listener(one, FILTERS) for one in OPTIONS}
        self.fields: Counter[str] = Counter()
        self.decisions = 0
        self.refused = 0

    def differences(self, option: str, configuration: dict[str, Any], asked: list[Request]) -> list[str]:
        """Where the two sides do not agree, in words."""
        message = json_format.ParseDict(configuration, route_pb2.RouteConfiguration())
        ours = OurRoutes.refusal(self.listeners[option], message, self.clusters)
        accepted = self.judge.configure(option, message)
        if isinstance(ours, ResourceError) or not accepted:
            self.refused += 1
            if isinstance(ours, ResourceError) and not accepted:
                return []
            return [f"Envoy {'takes' if accepted else 'refuses'} it: {self.judge.refusal(option)}; meshsdk: {ours}"]
        count_fields(configuration, "", self.fields)
        found = []
        for request, theirs in zip(asked, self.judge.ask(option, asked), strict=True):
            self.decisions += 1
            found += [f"{request}: {line}; {theirs}" for line in compare(theirs, ours.decide(request))]
        return found

    def counter_example(self, option: str, configuration: dict[str, Any], asked: list[Request]) -> str:
        """The first difference, with as little around it as shows it."""
        guilty = next(([one] for one in asked if self.differences(option, configuration, [one])), asked)

        def still_differs(smaller: dict[str, Any]) -> bool:
            try:
                return bool(self.differences(option, smaller, guilty))
            except (json_format.ParseError, KeyError):
                return False

        small = smallest(configuration, still_differs)
        return f"{self.differences(option, small, guilty)[0]}\nlistener {option}\n{json.dumps(small, indent=1)}"


def count_fields(value: Any, where: str, counter: Counter[str]) -> None:
    """Count every field that a configuration sets, by its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "typed_per_filter_config":
                counter[f"{where}.{name}"] += 1
                count_fields(inner, f"{where}.{name}", counter)
            else:
                for filter_name in inner:
                    counter[f"{where}.{name}[{filter_name}]"] += 1
    elif isinstance(value, list):
        for inner in value:
            count_fields(inner, where, counter)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("judge")
    with EchoUpstreams(folder, CLUSTERS) as upstreams:
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        with running_judge(folder, OPTIONS, configs, FILTERS) as judge:
            made = Bench(judge, make_clusters(configs))
            yield made
            print(f"\n{made.decisions} decisions, {made.refused} configurations refused by both; fields met:")
            for name, count in sorted(made.fields.items()):
                print(f"{count:7d}  {name.removeprefix('.')}")


def static_cluster(name: str, path: str) -> dict[str, Any]:
    """A cluster of one echo server."""
    endpoint = {
        "endpoint": {"hostname": f"{name}.host", "address": {"pipe": {"path": path}}},
        "metadata": {"filter_metadata": {"test": {"key": f"of {name}"}}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "metadata": {"filter_metadata": {"test": {"key": "value", "nested": {"deep": 7}}}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


@pytest.mark.timeout(600)
def test_every_generated_decision_is_envoys(bench: Bench) -> None:
    @seed(SEED)
    @settings(
        max_examples=CONFIGURATIONS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(
        st.sampled_from([one.name for one in OPTIONS]),
        route_configurations(),
        st.integers(0, 2**32),
    )
    def decide(option: str, configuration: dict[str, Any], draw: int) -> None:
        rng = Random(draw)
        asked = [make_request(rng) for _ in range(REQUESTS_PER_CONFIGURATION)]
        found = bench.differences(option, configuration, asked)
        assert not found, bench.counter_example(option, configuration, asked)

    decide()
    print(f"\n{bench.decisions} decisions with seed {SEED}, no difference")
    assert bench.decisions >= 20_000 or CONFIGURATIONS < 750
