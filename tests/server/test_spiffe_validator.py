"""SPIFFE's own validator of clusters and filter chains: a trust domain's roots vouch for its own names only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshsdk.errors import IdentityError

from ..certificates import SpiffeCa, spiffe
from .running import mesh_of, one_port
from .test_mutual_tls_matrix import OUR_CLIENTS, World, by_envoy, by_serve, gets_in, server_listener, upstream
from .test_trust import bundle_map

OTHER_CA = SpiffeCa("other")
VALIDATOR = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"

# Who is shown, and what is wrong with it; nothing where it is good.
SHOWN = {
    "right": "",
    "other domain": "",
    "crossed": "no root of its trust domain vouches for it",
    "foreign": "no root of its trust domain vouches for it",
    "unknown domain": "there is no bundle of its trust domain",
    "no SPIFFE id": "the peer has no SPIFFE ID",
    "may sign": "its certificate is none of a workload's",
}


class SpiffeWorld(World):
    """Two trust domains with a CA each, and peers that mix them up.

    Attributes:
        form: How configuration names the roots.
    """

    form = "trust_domains"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._write("other domain", OTHER_CA.issue(spiffe("peer", "other.domain")))
        self._write("crossed", self.ca.issue(spiffe("peer", "other.domain")))
        self._write("foreign", OTHER_CA.issue(spiffe("peer")))
        self._write("unknown domain", OTHER_CA.issue(spiffe("peer", "third.domain")))
        self._write("no SPIFFE id", self.ca.issue(dns=("peer.example",)))
        self._write("may sign", self.ca.issue(spiffe("peer"), may_sign=True))
        bundles = json.loads(bundle_map(cluster_local=[self.ca.pem], other_domain=[OTHER_CA.pem]))
        for bundle in bundles["trust_domains"].values():
            # Envoy takes no keys for other things.
            bundle["keys"] = [key for key in bundle["keys"] if key["use"] == "x509-svid"]
        (self.folder / "bundles.json").write_text(json.dumps(bundles))
        (self.folder / "other.pem").write_bytes(OTHER_CA.pem)

    def trust(self, account: str) -> dict[str, Any]:
        config: dict[str, Any] = {"@type": VALIDATOR}
        if self.form == "trust_domains":
            config["trust_domains"] = [
                {"name": "cluster.local", "trust_bundle": {"filename": str(self.path("own") / "roots.pem")}},
                {"name": "other.domain", "trust_bundle": {"filename": str(self.folder / "other.pem")}},
            ]
        else:
            config["trust_bundles"] = {"filename": str(self.folder / "bundles.json")}
        validator = {"name": "envoy.tls.cert_validator.spiffe", "typed_config": config}
        return {"custom_validator_config": validator}


class Plain(World):
    """The same files, and servers that let in whoever the first authority vouches for."""

    def __post_init__(self) -> None:
        pass

    def trust(self, account: str) -> dict[str, Any]:
        return {"trusted_ca": {"filename": str(self.path("own") / "roots.pem")}}


@pytest.fixture(params=["trust_domains", "trust_bundles"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> SpiffeWorld:
    (tmp_path / "world").mkdir()
    made = SpiffeWorld(tmp_path / "world", SpiffeCa())
    made.form = request.param
    return made


@pytest.mark.parametrize("server", [by_serve, by_envoy], ids=["mesh.serve", "Envoy"])
def test_servers_let_in_whom_their_trust_domain_vouches_for(world: SpiffeWorld, tmp_path: Path, server: Any) -> None:
    with server(world, tmp_path) as port:
        assert {kind: gets_in(world, port, kind) for kind in SHOWN} == {
            kind: not wrong for kind, wrong in SHOWN.items()
        }


@pytest.mark.parametrize("client", ["httpx", "httpx async"])
def test_clients_talk_to_whom_its_trust_domain_vouches_for(world: SpiffeWorld, tmp_path: Path, client: str) -> None:
    for kind, wrong in SHOWN.items():
        place = tmp_path / f"server {kind}"
        place.mkdir()
        # The server asks for nothing that this is about.
        with (
            by_serve(Plain(world.folder, world.ca), place, kind, "right") as port,
            mesh_of(tmp_path, upstream(world, port, "right"), name=f"client {kind}") as mesh,
        ):
            said = OUR_CLIENTS[client](mesh)
        assert wrong in said if wrong else said == "talks", f"{kind}: {said}"


def test_where_trust_domains_cannot_be_told_apart_the_configuration_is_refused(
    world: SpiffeWorld, tmp_path: Path
) -> None:
    port = one_port()
    with (
        mesh_of(tmp_path, server_listener(world, port), world.identity("own")) as mesh,
        pytest.raises(IdentityError, match="trust domains are told apart by mesh.serve"),
    ):
        mesh.ssl_context(port=port)
    with mesh_of(tmp_path, upstream(world, port), name="client") as mesh:
        assert OUR_CLIENTS["grpc"](mesh).startswith("refused")
        assert "spiffe: is a check of the peer that grpc-core does not make" in json.dumps(mesh.status()["grpc"])
