"""Each authority's servers may be away by themselves (gRFC A47)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import meshsdk

from ..ads import AdsServer
from ..patience import PATIENCE
from ..servers import EchoServer
from ..xds.test_grfc_fallback import world
from ..xds.test_grfc_federation import OTHER, federated


def test_what_was_kept_is_used_of_the_authority_that_is_away_alone(
    stack: ExitStack, echo: Callable[[str], EchoServer], tmp_path: Path
) -> None:
    top = stack.enter_context(AdsServer(*world("shop", echo("top's").port)))
    other = AdsServer(*federated(OTHER, "shop", echo("other's").port))
    document = {**top.bootstrap, "authorities": {OTHER: {"xds_servers": [other.entry]}}}

    def answers(mesh: meshsdk.Mesh) -> list[str]:
        with mesh.client(timeout=PATIENCE) as mine, mesh.client(timeout=PATIENCE, authority=OTHER) as theirs:
            return [client.get("http://shop").headers["x-served-by"] for client in (mine, theirs)]

    with meshsdk.Mesh(bootstrap=document, cache_dir=tmp_path / "cache") as mesh:
        assert answers(mesh) == ["top's", "other's"]
    other.__exit__(None, None, None)
    top.publish(*world("shop", echo("new").port))
    with meshsdk.Mesh(bootstrap=document, cache_dir=tmp_path / "cache") as mesh:
        assert answers(mesh) == ["new", "other's"]
        kept = {one["name"]: one["kept_seconds"] for one in mesh.status()["resources"]}
    assert {name for name, seconds in kept.items() if seconds is not None} == {
        name for name in kept if name.startswith("xdstp:")
    }
    assert len(kept) > 3
