"""The licences of all that meshsdk and its extras install, as the page docs/licences.md: `make licences`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .pages import REPOSITORY, ROOT

__all__ = ["EXTRAS", "needed"]

PAGE = ROOT / "docs" / "licences.md"
EXTRAS = ("cel", "cli", "fastapi", "flask", "httpx2", "otel", "prometheus", "requests", "serve", "testing")
INTRODUCTION = f"""# Licences

meshsdk is under the [Apache License 2.0]({REPOSITORY}/blob/main/LICENSE). It contains no code of others;
what it needs is installed beside it, each under its own licence. This is what pip installs with meshsdk (*always*) and
with its extras, with what these need in turn, as their own metadata say. `make licences` writes this page anew, from
what is installed.

There is no NOTICE file, since none is due: section 4 (d) of the license asks for one of who distributes a work that has
one, and the packages of meshsdk contain its own code only.

| package | version | licence | with |
|---|---|---|---|
"""


def needed() -> dict[str, set[str]]:
    """Each package that is installed with meshsdk, with the extras that bring it; `always` is without any."""
    found: dict[str, set[str]] = {}
    for extra in ("", *EXTRAS):
        for name in _closure("meshsdk", extra):
            found.setdefault(name, set()).add(extra or "always")
    return {name: {"always"} if "always" in extras else extras for name, extras in sorted(found.items())}


def _closure(root: str, extra: str) -> set[str]:
    seen: set[tuple[str, str]] = set()
    open_ones = [(root, extra)]
    while open_ones:
        one = open_ones.pop()
        if one in seen:
            continue
        seen.add(one)
        open_ones.extend(_requirements(*one))
    return {name for name, _ in seen} - {root}


def _requirements(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """What a package needs, with an extra of its, on this system: names and extras."""
    for text in requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed_name = canonicalize_name(requirement.name)
            yield needed_name, ""
            yield from ((needed_name, one) for one in requirement.extras)


def licence_of(package: Distribution) -> str:
    """What a package says that its licence is: an expression of SPDX, its classifiers, or a line of its own."""
    metadata = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if text.startswith("License ::")
    ]
    named = [text for text in classifiers if text != "OSI Approved"]
    line = (metadata.get("License") or "").strip().partition("\n")[0]
    return metadata.get("License-Expression") or ", ".join(named) or line or "not said"


def main() -> None:
    """Write the page."""
    rows = []
    for name, extras in needed().items():
        package = distribution(name)
        with_extras = "always" if extras == {"always"} else ", ".join(f"`{one}`" for one in sorted(extras))
        rows.append(f"| {package.metadata['Name']} | {package.version} | {licence_of(package)} | {with_extras} |\n")
    PAGE.write_text(INTRODUCTION + "".join(rows))
    print(f"{len(rows)} packages are in {PAGE}")


if __name__ == "__main__":
    main()
