"""Each example of docs/testing.md, run as it is printed; and what pytest itself makes of the plugin."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.processes import CLEAN_ENVIRONMENT

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "testing.md").read_text(), re.M | re.S)


def run_pytest(folder: Path, *arguments: str) -> str:
    """A run of its own, with the plugin and without those of the machine."""
    plugins = ["-p", "meshsdk.testing.plugin", "-p", "anyio", "-p", "xdist"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *arguments, str(folder)],
        cwd=folder,
        env={
            **CLEAN_ENVIRONMENT,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_example_of_the_page_passes(tmp_path: Path) -> None:
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"test_example_{number}.py").write_text(block)
    # Two variants in one of them. On two workers, as teams run their tests.
    assert f"{sum(block.count('def test_') for block in BLOCKS) + 1} passed" in run_pytest(tmp_path, "-n", "2")
    assert len(BLOCKS) >= 10


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
