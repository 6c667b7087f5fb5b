"""The site builds without a warning, its links lead somewhere, and each public name has an entry in its reference."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer.main
from griffe import GriffeLoader
from packaging.utils import canonicalize_name

from docs.hooks import ENTRY
from meshsdk.cli.commands import app

from .licences import EXTRAS, needed
from .pages import PAGES, PROJECT, REPOSITORY, ROOT, anchors_of, links_of, name_of

# What they list in `__all__` is public; of others, what is said here.
PUBLIC = {
    "meshsdk": None,
    "meshsdk.errors": None,
    "meshsdk.deadline": None,
    "meshsdk.identities": None,
    "meshsdk.testing": None,
    "meshsdk.testing.plugin": None,
    "meshsdk.server": None,
    "meshsdk.server.uvicorn_protocol": None,
    "meshsdk_fastapi": None,
    "meshsdk_flask": None,
    "meshsdk_requests": None,
    "meshsdk.httpx2": ["AsyncMeshTransport", "MeshTransport"],
    "meshsdk.access_log": ["AccessLog", "ISTIO_JSON", "ISTIO_TEXT"],
    "meshsdk.request_id": ["current"],
    "meshsdk.security": ["Credentials", "Identity"],
}
VARIABLE = re.compile(r'"((?:MESHSDK|GRPC_XDS|ISTIOD|OTEL_PYTHON|SPIFFE_ENDPOINT)_[A-Z_]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built. Strict: a warning of MkDocs, of griffe or about a link fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (site / page).is_file()] == []
    assert len(pages) > 20


def test_every_public_name_has_an_entry_in_the_reference(site: Path) -> None:
    packed = (site / "objects.inv").read_bytes().split(b"compressed using zlib.\n", 1)[1]
    documented = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    public = [
        f"{module}.{name}"
        for module, names in PUBLIC.items()
        for name in (names or importlib.import_module(module).__all__)
    ]
    # A module is documented name by name.
    assert [name for name in public if name not in documented | PUBLIC.keys()] == []


def test_the_sentences_of_the_reference_are_those_of_the_docstrings() -> None:
    loader = GriffeLoader(search_paths=[ROOT, ROOT / "integrations"], allow_inspection=False)
    for package in ("meshsdk", "meshsdk_fastapi", "meshsdk_flask", "meshsdk_requests"):
        loader.load(package)
    loader.resolve_aliases()
    entries = [
        (found[2], " ".join(found[3].split()))
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for found in ENTRY.finditer(page.read_text())
    ]
    docstrings = {name: loader.modules_collection[name].docstring for name, _ in entries}
    assert len(entries) > 50
    for name, sentence in entries:
        docstring = docstrings[name]
        assert docstring is not None, name
        assert sentence == " ".join(docstring.value.split("\n\n")[0].split()), name


def test_nothing_is_loaded_from_elsewhere_when_a_page_is_read(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|source)[^>]+(?:src|srcset)="(https?:[^"]+)"', page.read_text())
        assert loaded == [], page


def test_every_command_has_a_section_with_its_options() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    sections = dict(re.findall(r"^## meshsdk (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(sections) == sorted(commands)
    for name, command in commands.items():
        options = {option for one in command.params if one.param_type_name == "option" for option in one.opts}
        assert {option for option in options if f"`{option}`" not in sections[name]} == set(), name


def test_every_variable_of_the_environment_is_listed() -> None:
    text = (ROOT / "docs" / "reference" / "environment.md").read_text()
    found = {name for path in (ROOT / "meshsdk").rglob("*.py") for name in VARIABLE.findall(path.read_text())}
    assert {"MESHSDK_CONFIG", "GRPC_XDS_BOOTSTRAP", "ISTIOD_ADDR"} <= found
    assert {name for name in found if f"`{name}`" not in text} == set()


def test_the_table_of_licences_has_all_that_is_installed_with_meshsdk() -> None:
    extras = PROJECT["optional-dependencies"].keys() - {"dev", "docs"}
    assert extras == set(EXTRAS)
    rows = re.findall(r"^\| (\S+) \| \S+ \| (.+?) \| .+ \|$", (ROOT / "docs" / "licences.md").read_text(), re.M)
    licences = {canonicalize_name(name): licence for name, licence in rows}
    assert needed().keys() - licences.keys() == set()
    assert [name for name, licence in licences.items() if licence == "not said"] == []


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_each_page_that_a_message_names_is_there() -> None:
    sources = [path.read_text() for path in (ROOT / "meshsdk").rglob("*.py")]
    named = {page for source in sources for page in re.findall(r"docs/[\w-]+\.md", source)}
    assert "docs/istio.md" in named
    assert {page for page in named if not (ROOT / page).is_file()} == set()


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md"])
def test_every_extra_is_listed_with_what_it_is_for(name: str) -> None:
    cells = re.findall(r"^\| ((?:`[a-z0-9]+`(?:, )?)+) \|", (ROOT / name).read_text(), re.M)
    listed = {extra for cell in cells for extra in re.findall("`([a-z0-9]+)`", cell)}
    assert listed == PROJECT["optional-dependencies"].keys() - {"dev", "docs"}


def test_every_logger_is_listed() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    sources = [path.read_text() for path in (ROOT / "meshsdk").rglob("*.py")]
    found = {name for source in sources for name in re.findall(r'logger_of\("([a-z_.]+)"\)', source)}
    assert "meshsdk.audit" in found
    assert {name for name in found if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    problems = [link for link in links_of(page) if not leads_somewhere(page, link)]
    assert problems == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a link is one to a file of the repository, with its anchor, or looks like one to the outside."""
    outside = urlsplit(link)
    if outside.scheme:
        place = in_the_repository(link)
        if place is None:
            return outside.scheme == "https" and "." in outside.netloc and " " not in link
        path, fragment = ROOT / urlsplit(place).path, outside.fragment
    elif page.parent == ROOT and page.name == "README.md":
        return False  # It is shown by PyPI as well, where only whole addresses lead anywhere.
    else:
        path, fragment = page.parent / outside.path if outside.path else page, outside.fragment
    if not path.exists():
        return False
    if not fragment:
        return True
    # Names of the reference are anchors of the site alone, which MkDocs checks.
    is_name = path.parent.name == "reference" and "." in fragment
    return is_name or (path.suffix == ".md" and fragment in anchors_of(path))


def in_the_repository(link: str) -> str | None:
    """The path of a file that an address names; None where it is nobody's of ours."""
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    for prefix in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/", f"{raw}/main/"):
        if link.startswith(prefix):
            return link.removeprefix(prefix)
    return None


def test_what_is_no_link_to_anything_is_found() -> None:
    page = ROOT / "docs" / "istio.md"
    assert leads_somewhere(page, "security.md#promises")
    assert leads_somewhere(page, f"{REPOSITORY}/blob/main/docs/security.md#promises")
    for wrong in ("security.md#promise", "nowhere.md", "#nowhere", f"{REPOSITORY}/blob/main/nowhere", "http://a.b/c"):
        assert not leads_somewhere(page, wrong), wrong


def test_the_project_has_one_address() -> None:
    addresses = {
        found
        for path in [*PAGES, ROOT / "mkdocs.yml", ROOT / "pyproject.toml"]
        for found in re.findall(r"https://github\.com/meshsdk/[\w-]+", path.read_text())
    }
    assert addresses == {REPOSITORY}
    assert all(address.startswith(REPOSITORY) for address in PROJECT["urls"].values())
