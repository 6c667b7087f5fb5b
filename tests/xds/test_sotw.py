"""What a state-of-the-world response says of names that it lacks."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshsdk.resources import ResourceType
from meshsdk.xds import ResourceCache, Status
from meshsdk.xds.sotw import SotwSession
from tests.xds.test_ads_client import assignment, cluster

CLUSTER = ResourceType.CLUSTER


class Session:
    """A session on an open stream, by names."""

    def __init__(self, *names: str) -> None:
        self.cache = ResourceCache()
        self.session = SotwSession(base_pb2.Node(id="me"), self.cache)
        self.want(*names)
        self.session.open()

    def want(self, *names: str) -> Any:
        return self.session.subscribe(CLUSTER, frozenset(names))

    def receive(self, *resources: Any, nonce: str = "n") -> list[Any]:
        response = discovery_pb2.DiscoveryResponse(
            type_url=CLUSTER.type_url, version_info=nonce, nonce=nonce, resources=resources
        )
        return self.session.receive(response).answers

    def status(self, name: str) -> Status:
        entry = self.cache.get(CLUSTER, name)
        assert entry is not None
        return entry.status


def test_a_response_that_may_answer_an_earlier_request_tells_nothing_of_a_new_name() -> None:
    one = Session("a")
    one.want("a", "b")
    one.receive(cluster("a"))
    assert one.status("b") is Status.REQUESTED
    one.receive(cluster("a"))
    assert one.status("b") is Status.REQUESTED
    assert one.session.undecided(CLUSTER) == {"b"}


def test_what_each_request_of_the_stream_named_is_decided_by_the_first_response() -> None:
    one = Session("a", "b")
    one.want("a", "b", "c")
    one.receive(cluster("a"))
    assert (one.status("b"), one.status("c")) == (Status.DOES_NOT_EXIST, Status.REQUESTED)


def test_a_name_that_was_left_out_for_one_request_is_new_again() -> None:
    one = Session("a", "b")
    one.want("a")
    one.want("a", "b")
    one.receive(cluster("a"))
    assert one.status("b") is Status.REQUESTED


def test_what_was_sent_before_and_is_left_out_is_gone_even_if_it_was_refused() -> None:
    one = Session("a")
    one.want("a", "b", "c")
    one.receive(cluster("a"), cluster("b"), cluster("c", connect_timeout="-1s"))
    assert one.status("c") is Status.NACKED
    one.receive(cluster("a"))
    assert (one.status("b"), one.status("c")) == (Status.DOES_NOT_EXIST, Status.DOES_NOT_EXIST)


def test_after_a_reconnection_all_that_is_wanted_is_decided_by_the_first_response() -> None:
    one = Session("a")
    one.want("a", "b", "c")
    one.receive(cluster("a"), cluster("b"))
    one.session.open()
    one.receive(cluster("a"))
    assert (one.status("b"), one.status("c")) == (Status.DOES_NOT_EXIST, Status.DOES_NOT_EXIST)


@pytest.mark.parametrize("names_changed", [True, False])
def test_a_refusal_is_followed_by_the_request_that_it_hides(names_changed: bool) -> None:
    one = Session("a")
    if names_changed:
        one.want("a", "b")
    answers = one.receive(cluster("a", connect_timeout="-1s"), nonce="7")
    assert answers[0].HasField("error_detail")
    assert [(list(a.resource_names), a.response_nonce, a.HasField("error_detail")) for a in answers[1:]] == (
        [(["a", "b"], "7", False)] if names_changed else []
    )


def test_a_name_that_was_dropped_and_wanted_again_is_doubted_where_an_answer_of_between_lacks_it() -> None:
    one = Session("a")
    one.want("b")
    one.want("a")
    one.receive(cluster("a"))  # To the first request.
    one.receive(cluster("b"))  # To the second.
    assert one.status("a") is Status.ACKED
    assert one.session.undecided(CLUSTER) == {"a"}
    one.receive(cluster("a"))  # To the third.
    assert one.session.undecided(CLUSTER) == frozenset()


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_doubted_is_decided_by_the_second_question(is_there: bool) -> None:
    one = Session("a")
    one.want("b")
    one.want("a")
    one.receive(cluster("a"))
    one.receive()
    answer = discovery_pb2.DiscoveryResponse(type_url=CLUSTER.type_url, resources=[cluster("a")] if is_there else [])
    one.session.learn_absence(CLUSTER, frozenset("a"), answer)
    assert one.status("a") is (Status.ACKED if is_there else Status.DOES_NOT_EXIST)
    assert one.session.undecided(CLUSTER) == frozenset()


def test_names_that_were_dropped_are_not_kept_for_ever() -> None:
    one = Session()
    for number in range(5_000):
        one.want(str(number))
    assert len(one.session._dropped[CLUSTER]) < 5_000


def test_endpoints_that_were_dropped_and_wanted_again_are_asked_for_anew_where_the_server_may_not_have_noticed() -> (
    None
):
    endpoints = ResourceType.ENDPOINTS
    one = Session()

    def names(*wanted: str) -> list[list[str]]:
        """The names in each request that a response with endpoints of `b` is answered by, where these are wanted."""
        one.session.subscribe(endpoints, frozenset(wanted))
        response = discovery_pb2.DiscoveryResponse(
            type_url=endpoints.type_url, version_info="1", nonce="1", resources=[assignment("b")]
        )
        return [list(request.resource_names) for request in one.session.receive(response).answers]

    assert names("a", "b") == [["a", "b"]]
    assert names("b") == [["b"]]
    assert names("a", "b") == [["a", "b"], ["b"], ["a", "b"]]
    assert [len(names("a", "b")) for _ in range(6)] == [3, 3, 3, 3, 1, 1], "it may not exist"
