"""The file of what was kept: whole or not at all, of this user and this node alone, and nothing to be afraid of."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from meshsdk.bootstrap import parse_bootstrap
from meshsdk.last_good import Keeper, Store, fingerprint
from meshsdk.last_good.store import Record
from meshsdk.resources import ResourceType

from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT

CLUSTER = ResourceType.CLUSTER.type_url
HEAD = b"meshsdk last known good, 1\n"
DAY = 86_400.0


def record(name: str, packed: bytes = b"x", age: float = 0.0) -> Record:
    return Record(CLUSTER, name, "1", time.time() - age, packed)


def update(store: Store, *records: Record) -> tuple[int, int, str]:
    return store.update({(one.type_url, one.name): one for one in records}, DAY)


def names(store: Store) -> set[str]:
    found, problem = store.read()
    assert problem == ""
    return {name for _, name in found}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", "f" * 32, max_bytes=10_000)


def test_what_is_put_in_is_there_and_nobody_else_can_read_it(store: Store) -> None:
    assert store.read() == ({}, "")
    update(store, record("a"), record("b"))
    update(store, record("c"))
    store.update({(CLUSTER, "a"): None}, DAY)
    assert names(store) == {"b", "c"}
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()} == {0o600}


def test_the_umask_opens_nothing(store: Store) -> None:
    before = os.umask(0)
    try:
        update(store, record("a"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_news_of_another_process_are_not_made_older(store: Store) -> None:
    update(store, record("a", b"new"))
    update(store, record("a", b"old", age=10.0))
    assert store.read()[0][(CLUSTER, "a")].packed == b"new"


def test_the_oldest_are_left_out_of_what_is_too_much_and_that_is_said(store: Store) -> None:
    big = b"x" * 3000
    count, size, problem = update(store, *(record(f"{age}", big, float(age)) for age in range(5)))
    assert names(store) == {"0", "1", "2"}
    assert (count, problem) == (3, "2 of 5 resources are too much for 10000 bytes")
    assert size <= 10_000


def test_what_is_too_old_is_left_out(store: Store) -> None:
    update(store, record("a", age=DAY + 1), record("b"))
    assert names(store) == {"b"}


def whole(body: bytes) -> bytes:
    return HEAD + hashlib.sha256(body).digest() + body


def contents(records: list[Record], name: str = "f" * 32) -> bytes:
    return whole(msgspec.msgpack.encode([name, records]))


class Pickled:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/meshsdk-was-here",)


DAMAGE = {
    "empty": b"",
    "cut off": contents([record("a")])[:-1],
    "cut off in its digest": HEAD + b"123",
    "changed": contents([record("a")]).replace(b"1", b"2"),
    "of another version": contents([record("a")]).replace(b"good, 1", b"good, 2"),
    "a pickle": pickle.dumps(Pickled()),
    "a pickle in its clothes": whole(pickle.dumps(Pickled())),
    "other data": whole(msgspec.msgpack.encode({"a": 1})),
    "a record too short": whole(msgspec.msgpack.encode(["f" * 32, [[CLUSTER, "a"]]])),
    "nested a million deep": whole(b"\x91" * 15_000),
    "text that is none": whole(b"\x92\xa1\xff\x90"),
    "of another node": contents([record("a")], "e" * 32),
}


@pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_not_as_it_was_written_counts_as_nothing_and_is_written_anew(
    store: Store, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    update(store, record("a"))
    store.path.write_bytes(data)
    found, problem = store.read()
    assert found == {}
    assert f"{store.path} is not used: " in problem
    update(store, record("b"))
    assert str(store.path) in caplog.text
    assert names(store) == {"b"}


def test_what_says_that_it_is_of_tomorrow_is_left_out(store: Store) -> None:
    update(store, record("a"))
    strange = [record("tomorrow", age=-DAY), record("never", age=float("nan")), record("now")]
    store.path.write_bytes(contents(strange))
    assert names(store) == {"now"}


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def make_huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


HOSTILE = {
    "a link": make_link,
    "a pipe": make_pipe,
    "a folder": make_folder,
    "a terabyte": make_huge,
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_somebody_else_may_have_made_is_not_used(store: Store, change: Callable[[Path], None]) -> None:
    update(store, record("a"))
    change(store.path)
    found, problem = store.read()
    assert found == {}
    assert f"{store.path} is not used: " in problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_and_a_folder_of_another_user_are_not_used(store: Store) -> None:
    update(store, record("a"))
    os.chown(store.path, 12345, 12345)
    assert "belongs to user 12345" in store.read()[1]
    os.chown(store.path, 0, 0)
    os.chown(store.folder, 12345, 12345)
    assert "belongs to user 12345" in store.read()[1]
    with pytest.raises(Exception, match="belongs to user 12345"):
        update(store, record("b"))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(store: Store, mode: int) -> None:
    update(store, record("a"))
    store.folder.chmod(mode)
    before = store.path.read_bytes()
    assert "others may write to it" in store.read()[1]
    with pytest.raises(Exception, match="others may write to it"):
        update(store, record("b"))
    assert store.path.read_bytes() == before


def test_a_folder_that_is_a_link_is_neither_read_nor_written(tmp_path: Path, store: Store) -> None:
    update(store, record("a"))
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    linked = Store(link, "f" * 32)
    assert "is a link" in linked.read()[1]
    with pytest.raises(Exception, match="is a link"):
        update(linked, record("b"))


def test_what_a_killed_process_has_half_written_harms_nobody(store: Store) -> None:
    update(store, record("a"))
    (store.folder / f"{'f' * 32}.new").write_bytes(b"half")
    assert names(store) == {"a"}
    update(store, record("b"))
    assert names(store) == {"a", "b"}
    assert len(list(store.folder.iterdir())) == 2, "the file and its lock"


def test_files_of_nodes_that_are_no_more_are_taken_away(store: Store) -> None:
    others = [Store(store.folder, letter * 32) for letter in "ab"]
    for one in others:
        update(one, record("x"))
    long_ago = time.time() - 40 * DAY
    os.utime(others[0].path, (long_ago, long_ago))
    (store.folder / "notes.txt").write_text("mine")
    os.utime(store.folder / "notes.txt", (long_ago, long_ago))
    update(store, record("a"))
    left = {path.name for path in store.folder.iterdir()}
    files = {f"{letter * 32}.{kind}" for letter in "bf" for kind in ("resources", "lock")}
    assert left == files | {"notes.txt"}


WRITER = """
import sys, time
from pathlib import Path
from meshsdk.last_good import Store
from meshsdk.last_good.store import Record
store, who = Store(Path(sys.argv[1]), "f" * 32), sys.argv[2]
for number in range(25):
    name = f"{who}-{number}"
    store.update({("type", name): Record("type", name, "1", time.time(), b"x" * 1000)}, 1000.0)
    assert ("type", name) in store.read()[0]
"""


def test_processes_that_share_it_lose_nothing_of_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WRITER, str(folder)]
    writers = [subprocess.Popen([*command, str(number)], env=CLEAN_ENVIRONMENT) for number in range(4)]
    assert [writer.wait(PATIENCE) for writer in writers] == [0] * 4
    assert len(Store(folder, "f" * 32).read()[0]) == 100


def test_a_disk_that_fails_is_told_and_what_was_to_be_written_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "cache"
    place.write_text("in the way")
    keeper = Keeper(Store(place, "f" * 32), DAY, seconds_between=0.05)
    keeper.keep({(CLUSTER, "a"): record("a", b"")})
    eventually(lambda: keeper.problem)
    assert str(place) in keeper.problem
    place.unlink()
    keeper.keep({(CLUSTER, "b"): record("b", b"")})
    eventually(lambda: keeper.saved_at)
    assert names(keeper.store) == {"a", "b"}
    assert keeper.problem == ""
    keeper.close()
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1, "and it is told once"


def told(**changed: object) -> str:
    server = {"server_uri": "istiod:15012", "channel_creds": [{"type": "insecure"}]}
    node = {"id": "a", "cluster": "c", "metadata": {"LABELS": {"app": "a"}}, "locality": {"zone": "z"}}
    document = {"xds_servers": [server], "node": node, **changed}
    return fingerprint(parse_bootstrap(document))


def test_each_node_and_each_server_has_a_file_of_its_own() -> None:
    other = {"server_uri": "other:15012", "channel_creds": [{"type": "insecure"}]}
    all_of_them = [
        told(),
        told(node={"id": "b"}),
        told(node={"id": "a", "cluster": "c"}),
        told(node={"id": "a", "cluster": "c", "metadata": {"LABELS": {"app": "b"}}}),
        told(xds_servers=[other]),
    ]
    assert len(set(all_of_them)) == len(all_of_them)
    assert told() == told()
