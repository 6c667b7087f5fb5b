"""Runs a suite with its library alone and over the mesh, and compares test by test.

What the library itself does not pass here (another version of a server, of Python) says nothing of the mesh, so only a
test that passes without it and fails over it counts. `EXPECTED` has the few of them that are meant; docs/httpx.md
says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = Path(__file__).parent / "plugin"
SUBJECTS = ("transport", "front")

# What is in a test's id, and why it is otherwise over the mesh.
EXPECTED = {
    "trio": "async clients run on asyncio and uvloop",
    "test_httpcore_lazy_loading": "the mesh's transports have no use for httpcore",
}


def main(suite: Path) -> int:
    """Run, print what differs, and say whether all of it was expected."""
    library = "httpx2" if "import httpx2" in (suite / "conftest.py").read_text() else "httpx"
    bare = _outcomes(suite, library, "bare")
    print(f"{library} by itself: {_passed(bare)} of {len(bare)} tests pass", flush=True)
    unexpected = 0
    for subject in SUBJECTS:
        found = _outcomes(suite, library, subject)
        print(f"{library}, {subject}: {_passed(found)} of {len(found)} tests pass", flush=True)
        for test, outcome in bare.items():
            if outcome == "passed" and found.get(test) != "passed":
                reason = next((why for part, why in EXPECTED.items() if part in test), "")
                unexpected += not reason
                print(f"  {'as documented' if reason else 'DIFFERS'}: {test}: {reason or found.get(test)}")
    return 1 if unexpected else 0


def _outcomes(suite: Path, library: str, subject: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="meshsdk-suite-") as folder:
        report = Path(folder) / "outcomes.json"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]),
            "MESHSDK_SUITE_LIBRARY": library,
            "MESHSDK_SUITE_SUBJECT": subject,
            "MESHSDK_SUITE_REPORT": str(report),
        }
        # From where `tests` is the suite's own package.
        top = next(folder.parent for folder in (suite, *suite.parents) if not (folder.parent / "__init__.py").exists())
        command = [sys.executable, "-m", "pytest", "-q", "-p", "on_the_mesh", "-p", "no:cacheprovider", str(suite)]
        run = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            raise SystemExit(f"the suite does not run:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}")
        outcomes: dict[str, str] = json.loads(report.read_text())
        return outcomes


def _passed(outcomes: dict[str, str]) -> int:
    return sum(outcome == "passed" for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
