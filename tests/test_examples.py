"""Every example runs, with one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import CLEAN_ENVIRONMENT


def run(module: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parent.parent,
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_bookinfo_shows_what_its_yaml_says() -> None:
    assert "each as the YAML says" in run("examples.bookinfo")


def test_the_greeter_is_called_as_its_yaml_says() -> None:
    output = run("examples.grpc")
    assert "v2: hello Tom the tester" in output
    assert output.count("you said good morning") == 2


def test_two_services_trust_each_other_and_nobody_else() -> None:
    output = run("examples.two_services")
    assert "'path': '/v1/stock/lamp', 'asked_by': 'spiffe://cluster.local/ns/default/sa/orders'" in output
    assert "a shopper asks stock: 403 RBAC: access denied" in output
    assert "each as the YAML says" in output
