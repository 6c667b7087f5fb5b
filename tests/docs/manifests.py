"""YAML and JSON of the pages that stand for themselves: each object is one that its reader would take."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import yaml

from meshsdk.bootstrap import parse_bootstrap
from meshsdk.controlplane.folder import load

__all__ = ["check_alone", "check_objects"]

VERSION = "1.31.0"


def check_objects(text: str) -> list[Any]:
    """The documents of a text: Kubernetes takes those that are its own, and bootstraps are right.

    Raises:
        AssertionError: A document is no object.
        ValidationError: Kubernetes refuses one.
        BootstrapError: A bootstrap is wrong.
    """
    documents = [one for document in yaml.safe_load_all(text) for one in _items(document)]
    for document in documents:
        assert isinstance(document, dict), document
        if "kind" in document and "." not in document["apiVersion"].removesuffix(".k8s.io/v1"):
            kubernetes_validate.validate(document, VERSION, strict=True)
        if "xds_servers" in document:
            parse_bootstrap(document)
    return documents


def _items(document: Any) -> list[Any]:
    """What is in a List, as kubectl writes it."""
    return document["items"] if isinstance(document, dict) and document.get("kind") == "List" else [document]


def check_alone(text: str) -> None:
    """A text of its own: its documents are of a known kind, and a folder with nothing else in it has no error."""
    documents = check_objects(text)
    if all("xds_servers" in one for one in documents):
        return
    assert all("kind" in one or "@type" in one for one in documents), "what is it? give it a kind, or an @type"
    with TemporaryDirectory() as folder:
        (Path(folder) / "page.yaml").write_text(text)
        assert not load(Path(folder)).errors, load(Path(folder)).errors
