"""What may stand where a policy file was."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

__all__ = ["SWAPS", "Swap"]

Swap = Callable[[Path], None]


def _instead(make: Callable[[Path], object]) -> Swap:
    def swap(path: Path) -> None:
        path.unlink()
        make(path)

    return swap


def _socket(path: Path) -> None:
    # A socket's name may be a hundred bytes long.
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


def _text(text: bytes) -> Swap:
    return lambda path: void(path.write_bytes(text))


def void(_: object) -> None:
    """Makes an action of an expression."""


def _loop_of_folders(path: Path) -> None:
    path.symlink_to(path.parent / "also.yaml")
    (path.parent / "also.yaml").symlink_to(path)


ALIASES = "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 15))

SWAPS: dict[str, Swap] = {
    "a link that leads nowhere": _instead(lambda path: path.symlink_to("nowhere.yaml")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "links to each other": _instead(_loop_of_folders),
    "a folder": _instead(Path.mkdir),
    "a folder with files": _instead(lambda path: (path.mkdir(), (path / "a.yaml").write_text("a: 1"))),
    "a FIFO": _instead(os.mkfifo),
    "a socket": _instead(_socket),
    "a device": _instead(_device),
    "a link to a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to a file without end": _instead(lambda path: path.symlink_to("/proc/kmsg")),
    "a link to what the kernel tells": _instead(lambda path: path.symlink_to("/proc/meminfo")),
    "a link to a folder": _instead(lambda path: path.symlink_to("..")),
    "a huge file": lambda path: os.truncate(path, 65 << 20),
    "bytes that are not UTF-8": lambda path: void(path.write_bytes(path.read_bytes() + b"# \xff\n")),
    "UTF-16": lambda path: void(path.write_text(path.read_text(), encoding="utf-16")),
    "a missing comma": _text(b"kind: AuthorizationPolicy\nspec: {action: DENY rules: [{}]}\n"),
    "a bracket that is not closed": _text(b"kind: PeerAuthentication\nspec: {mtls: {mode: STRICT}\n"),
    "a scalar": _text(b"policy\n"),
    "a scalar after it": lambda path: void(path.write_bytes(path.read_bytes() + b"---\nthat's all\n")),
    "aliases": _text(ALIASES.encode()),
    "an alias inside of itself": _text(b"- &a [*a]\n"),
    "deep nesting": _text(b"[" * 500),
    "deep nesting of blocks": _text(b"- " * 20000),
    "a key that is nothing": lambda path: void(path.write_bytes(path.read_bytes() + b"? \n")),
    "a tag": _text(b"!!python/object/apply:os.system ['true']\n"),
    "a key twice": lambda path: void(path.write_text(path.read_text() + "spec: {}\n")),
    "a separator lost": lambda path: void(path.write_text(path.read_text() + path.read_text())),
    "a document without a kind": lambda path: void(path.write_text(path.read_text().replace("kind:", "kid:"))),
    "a list without items": _text(b"apiVersion: v1\nkind: List\nitems:\n"),
    "a comment that ends unseen": lambda path: void(path.write_text(path.read_text() + "# old\x85x: {}\n")),
}


def remove(path: Path) -> None:
    """Whatever stands there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
