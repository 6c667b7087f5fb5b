"""What Istio's own validation takes and refuses, and the configurations that Istio publishes.

They are read from Go's module cache, where a build of Istio leaves them; `test_validation.py` has rules of its own for
machines without.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshsdk.controlplane.folder import FolderState, load

from .istio_source import istio_source

SOURCE = istio_source()
CRDS = "pkg/config/validation/testdata/crds"

pytestmark = pytest.mark.skipif(SOURCE is None, reason="Istio's sources are not in Go's module cache")

# Of these nothing is carried out: an error of ours says so, a note, or the count of what is not ours.
NOT_CARRIED_OUT = ("EnvoyFilter", "WasmPlugin", "TrafficExtension", "ProxyConfig", "WorkloadGroup", "Gateway")

# What we refuse though Istio takes it, and why.
STRICTER = {
    "is for gateways and waypoints; use selector": "nothing in front of a process would carry the policy out",
    "is a condition that is not translated": "its route would match more than it may",
    "is not carried out": "there is no Envoy",
    "spec.addresses[1]: must be a string": "[001:db8::] is an object to YAML 1.2, and a string to Go's reader",
}


def published(kind: str) -> Iterator[Any]:
    for path in sorted((SOURCE / CRDS).glob(f"*-{kind}.yaml")) if SOURCE else ():
        for index, data in enumerate(yaml.safe_load_all(path.read_text())):
            if data is not None:
                yield pytest.param(data, id=f"{path.stem}-{index}")


def published_of(kind: str, *, carried_out: bool) -> Iterator[Any]:
    """Those that are carried out, or that are not."""
    return (one for one in published(kind) if (one.values[0]["kind"] not in NOT_CARRIED_OUT) is carried_out)


LEFT_OUT = [one for kind in ("valid", "invalid") for one in published_of(kind, carried_out=False)]


def loaded(tmp_path: Path, data: dict[str, Any]) -> FolderState:
    said = {name: value for name, value in data.items() if name != "_err"}
    (tmp_path / "object.yaml").write_text(yaml.safe_dump(said))
    return load(tmp_path)


def errors_of(tmp_path: Path, data: dict[str, Any]) -> list[str]:
    return loaded(tmp_path, data).errors


def is_stricter(text: str) -> bool:
    return any(words in text for words in STRICTER)


@pytest.mark.parametrize("data", [*published("valid")])
def test_what_istio_takes_is_taken(tmp_path: Path, data: dict[str, Any]) -> None:
    assert [text for text in errors_of(tmp_path, data) if not is_stricter(text)] == []


@pytest.mark.parametrize("data", LEFT_OUT)
def test_what_is_not_carried_out_is_told_by_its_kind(tmp_path: Path, data: dict[str, Any]) -> None:
    """Good or not: nobody is to believe that it has an effect."""
    state = loaded(tmp_path, data)
    texts = [one.text for one in state.problems]
    [told] = [one for one in texts if "has no effect" in one or "is not carried out" in one]
    assert "object.yaml" in told
    assert data["kind"] in told
    assert len(texts) == 1
    assert not [kind for kind, _ in state.grpc]


@pytest.mark.parametrize("data", [*published_of("invalid", carried_out=True)])
def test_what_istio_refuses_is_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    errors = errors_of(tmp_path, data)
    assert errors, data.get("_err")
    assert all(f"object.yaml {data['kind']}/" in text and "(line " in text for text in errors)


def configurations() -> Iterator[Any]:
    folders = ("tests/testdata/config", "samples")
    for path in sorted(path for one in folders for path in (SOURCE / one).rglob("*.yaml")) if SOURCE else ():
        # Charts are no YAML before Helm has filled them in.
        if "templates" not in path.parts:
            yield pytest.param(path, id=str(path.relative_to(SOURCE or "")))


@pytest.mark.parametrize("path", [*configurations()])
def test_configurations_of_istio_load(path: Path) -> None:
    assert [text for text in load(path).errors if not is_stricter(text)] == []
