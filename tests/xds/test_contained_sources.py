"""Who may say where a resource comes from, and what a source that fails is to the others: nothing."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from google.protobuf import json_format

import meshsdk
from meshsdk.bootstrap import ChannelCredentials
from meshsdk.errors import ResourceError
from meshsdk.regular_file import read_regular
from meshsdk.resources import ResourceType, decode, origin_of
from meshsdk.resources.config_source import sourced_name
from meshsdk.xds.cluster_server import servers_of_cluster

from ..ads import AdsServer
from ..grpc.xds import cluster, endpoints, listener
from ..patience import eventually
from .test_other_sources import ROUTE, TLS, ClientOf, Echo, client_of, eds_from, from_file, google, leading_to, response

__all__ = ["client_of"]


def _source(config: dict[str, Any]) -> Any:
    return json_format.ParseDict(config, config_source_pb2.ConfigSource())


BY_HEADER = {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}}


def test_a_request_chooses_among_clusters_and_not_where_one_comes_from(
    tmp_path: Path, client_of: ClientOf, echo: Echo, stack: ExitStack
) -> None:
    one, evil = echo("one"), echo("evil")
    own = [cluster("c"), endpoints("c", [[evil.port]])]
    theirs = stack.enter_context(AdsServer(*own))
    path = tmp_path / "cds.json"
    path.write_text(json.dumps(response(*own)))
    names = [sourced_name(_source(config), "c", "") for config in (google(theirs, "AGGREGATED_GRPC"), from_file(path))]
    assert all(origin_of(name) is not None for name in names)
    _, client, server = client_of(listener("shop", [BY_HEADER]), cluster("c"), endpoints("c", [[one.port]]))
    assert client.get("http://shop", headers={"x-cluster": "c"}).headers["x-served-by"] == "one"
    for name in names:
        assert client.get("http://shop", headers={"x-cluster": name}).status_code == 503
    assert not theirs.requests
    assert set(names) <= server.names(ResourceType.CLUSTER), "it is a name like any other"


def test_a_name_that_says_a_source_does_not_come_by_the_stream() -> None:
    with pytest.raises(ResourceError, match="eds_config: 'path:/etc/x.yaml#c' is a name that says a source"):
        sourced_name(_source({"ads": {}}), "path:/etc/x.yaml#c", "eds_config")


DEEP = "resources { [type.googleapis.com/google.protobuf.Value] {" + "list_value { values { " * 2000


@pytest.mark.parametrize(
    ("path", "content"),
    [("/no\0path.yaml", ""), ("deep.pb_text", DEEP)],
    ids=["no path", "nested too deep"],
)
def test_a_source_that_cannot_be_read_is_told_of_and_the_others_serve(
    path: str, content: str, tmp_path: Path, client_of: ClientOf, echo: Echo
) -> None:
    if content:
        (tmp_path / path).write_text(content)
    good = tmp_path / "eds.json"
    good.write_text(json.dumps(response(endpoints("c", [[echo("one").port]]))))
    bad = cluster("bad", eds_cluster_config={"eds_config": from_file(tmp_path / path)})
    to_bad = {"match": {"prefix": "/bad"}, "route": {"cluster": "bad"}}
    mesh, client, server = client_of(listener("shop", [to_bad, ROUTE]), bad, eds_from(from_file(good)))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    assert client.get("http://shop/bad").status_code == 503
    server.publish(listener("shop", [ROUTE]), eds_from(from_file(good)), bad, endpoints("x", [[1]]))
    eventually(lambda: client.get("http://shop/bad").status_code == 200)
    assert mesh.status()["failures"] <= 1


def test_what_secures_the_way_to_a_server_goes_by_its_endpoint() -> None:
    data = {key: value for key, value in leading_to(1, 2).items() if key != "@type"}
    matched = {"tls": "on"}
    data["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] = {
        "filter_metadata": {"envoy.transport_socket_match": matched}
    }
    context = {"common_tls_context": {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}}}}
    socket = {"name": "tls", "typed_config": {"@type": TLS, **context}}
    data["transport_socket_matches"] = [{"name": "tls", "match": matched, "transport_socket": socket}]
    made = decode(ResourceType.CLUSTER, json_format.ParseDict(data, cluster_pb2.Cluster()).SerializeToString())
    assert [one.credentials for one in servers_of_cluster(made)] == [
        ChannelCredentials("tls", "/ca.pem"),
        ChannelCredentials("insecure"),
    ]


@pytest.mark.parametrize("path", ["pipe.pem", "no\0path.pem"])
def test_certificates_of_the_way_to_a_server_are_files(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pem")
    files = {"ca_certificate_file": str(tmp_path / path)}
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "tls", "config": files}]}
    with meshsdk.Mesh(bootstrap={"xds_servers": [server], "node": {"id": "x"}}) as mesh:
        with pytest.raises(TimeoutError):
            mesh.wait_ready("shop", timeout=1)
        eventually(lambda: "cannot read" in mesh.status()["problem"])


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    assert read_regular(str(tmp_path / "one"), 5) == b"12345"
    with pytest.raises(ValueError, match="has more than 4 bytes"):
        read_regular(str(tmp_path / "one"), 4)
    with pytest.raises(ValueError, match="is no regular file"):
        read_regular("/dev/zero", 4)
    with pytest.raises(OSError, match="No such file"):
        read_regular(str(tmp_path / "two"), 4)
