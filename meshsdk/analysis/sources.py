"""What stands in files and folders, as people keep it: besides configuration, charts, overlays and whatever else.

Theory of operation. A folder that a Mesh is given holds configuration alone. One that is checked is often a repository:
Helm's templates are no YAML before Helm has filled them in, a patch of kustomize is a piece of an object, and a chart's
values may look like anything. Those are left out and told of in one line each, with the command that makes
configuration of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field

from ..controlplane.documents import Document, read_documents
from ..controlplane.files import list_files, read_file, shown
from ..controlplane.pruning import pruned
from ..errors import ConfigError
from .findings import LeftOut

__all__ = ["Sources", "read_sources"]

_CHART = ("Chart.yaml", "Chart.yml")
_KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")

# Of a kustomization: what names files that are no objects (kubectl.docs.kubernetes.io, kustomization).
_PATCHES = ("patches", "patchesJson6902", "replacements")
_PIECES = ("patchesStrategicMerge", "transformers", "generators", "validators", "configurations", "crds")
_GENERATORS = ("configMapGenerator", "secretGenerator")
_BASES = ("resources", "bases", "components")

_TEMPLATES, _TEMPLATE = "templates", "{{"
# One of them stands in each object, and in each xDS resource.
_OF_OBJECTS = ("apiVersion", "kind", "metadata", "@type")


class Sources(Struct):
    """What was read.

    Attributes:
        documents: By file, as a Mesh reads them.
        whole: The same, with what a Mesh forgets.
        problems: Of files that cannot be read.
        others: Files that are somebody else's, such as a chart's values; by what they are.
        left_out: Files that must be rendered.
    """

    documents: dict[Path, tuple[Document, ...]] = field(default_factory=dict)
    whole: dict[Path, tuple[Document, ...]] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)
    others: dict[Path, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read files and folders; what is wrong stands in the problems."""
    sources = Sources()
    entries = {entry.path: entry for path in paths for entry in list_files(path)}
    charts = _charts(entries)
    kustomizations = {path: _read_kustomization(path) for path in entries if path.name in _KUSTOMIZATION}
    patches = {patch.resolve() for path, data in kustomizations.items() for patch in _patches(path, data)}
    templates: list[Path] = []
    patched: list[Path] = []
    for path, entry in entries.items():
        if path.name in (*_CHART, *_KUSTOMIZATION):
            sources.others[path] = path.name
        elif any(path.is_relative_to(chart / _TEMPLATES) for chart in charts):
            templates.append(path)
        elif path.parent in charts and path.name.startswith("values"):
            sources.others[path] = path.name
        elif path.resolve() in patches:
            patched.append(path)
        elif entry.problem:
            sources.problems[path] = f"{shown(path)}: {entry.problem}"
        else:
            _read(path, sources, templates)
    _tell_of_templates(sources, templates, charts)
    overlays = [path.parent for path, data in kustomizations.items() if _is_overlay(data)]
    _tell_of_kustomize(sources, patched, overlays)
    return sources


def _charts(paths: Iterable[Path]) -> list[Path]:
    return [path.parent for path in paths if path.name in _CHART]


def _read(path: Path, sources: Sources, templates: list[Path]) -> None:
    try:
        whole = read_documents(path, is_whole=True)
    except ConfigError as error:
        text = _text_of(path)
        if _TEMPLATE in text and _TEMPLATES in path.parts:
            templates.append(path)
        elif path.suffix == ".json" and text and not any(word in text for word in _OF_OBJECTS):
            sources.others[path] = "*.json that is no object"
        else:
            also = "; render it first, if it is a template" if _TEMPLATE in text else ""
            sources.problems[path] = f"{error}{also}"
        return
    sources.documents[path], sources.whole[path] = tuple(map(_as_a_mesh_reads, whole)), whole


def _as_a_mesh_reads(document: Document) -> Document:
    """Without what it forgets."""
    if document.fault is not None or "@type" in document.data:
        return document
    return dataclasses.replace(document, data=pruned(document.data, document.kind))


def _text_of(path: Path) -> str:
    try:
        return read_file(path)
    except ConfigError:
        return ""


def _read_kustomization(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(read_file(path))
    except (ConfigError, yaml.YAMLError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _list(data: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = data.get(name)
    return value if isinstance(value, list) else ()


def _patches(path: Path, data: Mapping[str, Any]) -> Iterator[Path]:
    """Files that a kustomization names and that are no objects of their own."""
    named = [one.get("path") for name in _PATCHES for one in _list(data, name) if isinstance(one, dict)]
    named += [one for name in _PIECES for one in _list(data, name)]
    for name in _GENERATORS:
        for generator in _list(data, name):
            if isinstance(generator, dict):
                named += [str(one).rpartition("=")[2] for one in _list(generator, "files")]
    for one in named:
        if isinstance(one, str) and "\n" not in one:
            yield path.parent / one


def _is_overlay(data: Mapping[str, Any]) -> bool:
    """Whether it changes what stands elsewhere: something outside of its folder, or whatever includes it."""
    bases = [one for name in _BASES for one in _list(data, name) if isinstance(one, str)]
    return data.get("kind") == "Component" or any(one.startswith("..") or "//" in one for one in bases)


def _tell_of_templates(sources: Sources, templates: Sequence[Path], charts: Sequence[Path]) -> None:
    if templates:
        owners = [chart for chart in charts if any(path.is_relative_to(chart) for path in templates)]
        chart = shown(owners[0]) if owners else "CHART"
        render = f"helm template {chart} | meshsdk check -"
        sources.left_out.append(
            LeftOut("Helm templates, which a Mesh refuses as they are", tuple(map(shown, templates)), render)
        )


def _tell_of_kustomize(sources: Sources, patches: Sequence[Path], overlays: Sequence[Path]) -> None:
    if patches or overlays:
        folder = shown(overlays[0] if overlays else patches[0].parent)
        render = f"kubectl kustomize {folder} | meshsdk check -"
        if patches:
            sources.left_out.append(LeftOut("patches of kustomize", tuple(map(shown, patches)), render))
        if overlays:
            what = "what kustomize's overlays and components change"
            sources.left_out.append(LeftOut(what, tuple(map(shown, overlays)), render))
