"""Keys of the development CA do not pile up: what lies in the user's folder is in use."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshsdk.identities.development import DevelopmentIdentity
from meshsdk.identities.held_authority import HeldAuthority

from ..certificates import spiffe
from ..processes import CLEAN_ENVIRONMENT

WEB = spiffe("web")
USER = """
import os, sys
from meshsdk.identities.development import DevelopmentIdentity
identity = DevelopmentIdentity(sys.argv[1], "spiffe://cluster.local/ns/default/sa/web")
identity.credentials()
how = sys.argv[2]
if how == "fork" and os.fork() == 0:
    identity.credentials()
    sys.exit()
print("ready", flush=True)
sys.stdin.read()
"""

# In a process of its own: one with many threads, as that of tests, does not survive every fork.
FORKED = """
import os, sys
from meshsdk.identities.held_authority import HeldAuthority
held = HeldAuthority(sys.argv[1])
child = os.fork()
if child == 0:
    held.release()
    os._exit(0)
status = os.waitpid(child, 0)[1]
print(f"child ended with {status}, left {len(os.listdir(sys.argv[2]))}", flush=True)
held.release()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's private folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"meshsdk-{os.getuid()}"


def user(root: Path, how: str = "") -> subprocess.Popen[str]:
    """A process that uses the CA until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(root), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=CLEAN_ENVIRONMENT | {"XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_that_lets_go_removes_it(tmp_path: Path, folder: Path) -> None:
    one, two = DevelopmentIdentity(tmp_path / "mesh", WEB), DevelopmentIdentity(tmp_path / "mesh", WEB)
    roots = one.credentials().roots
    assert two.credentials().roots == roots
    one.close()
    assert len(left(folder)) == 1
    two.close()
    two.close()
    assert left(folder) == []


@pytest.mark.parametrize("how", ["", "fork"])
def test_nothing_is_left_of_a_process_that_ends(tmp_path: Path, folder: Path, how: str) -> None:
    end(user(tmp_path / "mesh", how))
    assert left(folder) == []


def test_it_stays_as_long_as_one_process_uses_it(tmp_path: Path, folder: Path) -> None:
    one, two = user(tmp_path / "mesh"), user(tmp_path / "mesh")
    [name] = left(folder)
    before = (folder / name).read_bytes()
    end(one)
    assert (folder / name).read_bytes() == before
    end(two)
    assert left(folder) == []


def test_what_a_killed_process_has_left_the_next_one_removes(tmp_path: Path, folder: Path) -> None:
    killed = [user(tmp_path / str(number)) for number in range(3)]
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    held = HeldAuthority(tmp_path / "own")
    held.write_beside(".token", b"x")
    assert len(left(folder)) == 2
    held.release()
    assert left(folder) == []


def test_a_forked_child_that_ends_first_leaves_its_parents(tmp_path: Path, folder: Path) -> None:
    environment = CLEAN_ENVIRONMENT | {"XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}
    command = [sys.executable, "-c", FORKED, str(tmp_path / "mesh"), str(folder)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert output == "child ended with 0, left 1\n"
    assert left(folder) == []


def locked() -> bytes:
    """A key that asks for a password."""
    secret = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


def curve_of_nobody() -> bytes:
    """A key of a kind that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    unknown = der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
    text = base64.encodebytes(unknown)
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("content", [b"nothing", locked(), curve_of_nobody()], ids=["nothing", "locked", "unknown"])
def test_what_is_no_authority_any_more_is_made_anew(tmp_path: Path, folder: Path, content: bytes) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    held = HeldAuthority(tmp_path / "mesh")
    [name] = left(folder)
    certificates = (folder / name).read_bytes().partition(b"-----BEGIN CERTIFICATE")
    (folder / name).write_bytes(content + certificates[1] + certificates[2])
    again = HeldAuthority(tmp_path / "mesh")
    assert again.authority.pem != held.authority.pem
    held.release()
    assert (folder / name).read_bytes().endswith(again.authority.pem)
    again.release()
    assert left(folder) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
