"""What pytest itself makes of the plugin. The examples of docs/testing.md run in tests/docs."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

from .runs import run_pytest

ROOT = Path(__file__).parent.parent.parent


def test_installed_it_is_a_plugin_of_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [(name, module)] = project["project"]["entry-points"]["pytest11"].items()
    assert name == "meshsdk"
    fixtures = importlib.import_module(module)
    assert {"control_plane", "mesh", "mesh_as", "mesh_service", "xds_variant"} <= set(fixtures.__all__)


def test_runs_that_do_not_use_it_import_nothing_for_it(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\ndef test_plain():\n"
        "    heavy = {'grpc', 'httpx', 'cryptography', 'google.protobuf', 'yaml', 'uvicorn', 'meshsdk.mesh'}\n"
        "    assert not heavy & sys.modules.keys()\n"
        "    assert 'meshsdk.testing.plugin' in sys.modules\n"
    )
    assert "1 passed" in run_pytest(tmp_path)


def test_fixtures_are_listed_with_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("def test_none(): pass\n")
    listed = run_pytest(tmp_path, "--fixtures", "-v")
    assert "mesh_service" in listed
    assert "The test's own management server" in listed
