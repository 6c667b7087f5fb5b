"""Programs that count, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**CLEAN_ENVIRONMENT, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


START = """
import os, sys, time, httpx, meshsdk
from tests.telemetry.scraping import scrape
config, port = sys.argv[1], int(sys.argv[2])
mesh = meshsdk.Mesh(config=config, metrics_port=port)
def send(times):
    with mesh.client() as client:
        for _ in range(times):
            client.get("http://a/")
"""
