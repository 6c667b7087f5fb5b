"""What an extra brings is missed with words that say which extra it is; in a process of its own, without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys, tempfile

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import meshsdk
mesh = meshsdk.Mesh(config=tempfile.mkdtemp())
async def asgi(scope, receive, send): ...
def wsgi(environ, start_response): ...
{statement}
"""


@pytest.mark.parametrize(
    ("packages", "statement", "extra"),
    [
        (("uvicorn",), "mesh.serve(asgi, port=1)", "serve"),
        (("a2wsgi",), "mesh.serve(wsgi, port=1)", "serve"),
        (("flask",), "import meshsdk_flask", "flask"),
        (("httpx2",), "mesh.client(library='httpx2')", "httpx2"),
        (("httpx2",), "mesh.async_client(library='httpx2')", "httpx2"),
        (("requests",), "import meshsdk_requests", "requests"),
        (("typer", "rich"), "from meshsdk.cli import main; main()", "cli"),
        (("uvicorn",), "from meshsdk.testing import ControlPlane; ControlPlane().service('a', asgi)", "testing"),
    ],
)
def test_a_missing_extra_is_named(packages: tuple[str, ...], statement: str, extra: str) -> None:
    script = WITHOUT.format(packages=packages, statement=statement)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"pip install 'meshsdk[{extra}]'" in done.stderr.splitlines()[-1], done.stderr
