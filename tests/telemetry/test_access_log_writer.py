"""Where lines of access logs go: nothing that happens there holds up a request or makes it fail."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meshsdk.access_log.sinks import FileSink, LoggingSink, Sink, StreamSink
from meshsdk.access_log.writer import Pace, Writer

from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT


class _Closing:
    def __init__(self) -> None:
        self.writers: list[Writer] = []

    def __call__(self, sink: Sink, max_waiting: int = 1_000_000) -> Writer:
        self.writers.append(Writer(sink, "the log", Pace(max_waiting=max_waiting)))
        return self.writers[-1]


@pytest.fixture
def make_writer() -> Iterator[_Closing]:
    made = _Closing()
    yield made
    for writer in made.writers:
        writer.close(1.0)


class Blocked:
    """A sink that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.lines: list[str] = []

    def write(self, lines: Sequence[str]) -> int:
        self.free.wait(PATIENCE)
        self.lines.extend(lines)
        return len(lines)

    def close(self) -> None:
        pass


def test_lines_come_in_order_and_none_is_lost(tmp_path: Path, make_writer: _Closing) -> None:
    writer = make_writer(FileSink(str(tmp_path / "log")))
    for number in range(10_000):
        writer.write(f"{number}\n")
    assert writer.flush(PATIENCE)
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(10_000)]
    assert (writer.written, writer.dropped) == (10_000, 0)


def test_a_pause_longer_than_any_wait_is_just_long(tmp_path: Path) -> None:
    writer = Writer(FileSink(str(tmp_path / "log")), "the log", Pace(seconds=315_576_000_000.0))
    writer.write("0\n")
    assert writer.flush(PATIENCE)
    writer.write("1\n")
    assert not writer.flush(0.5), "it has all the time"
    writer.close(PATIENCE)
    assert (tmp_path / "log").read_text() == "0\n1\n"


def test_threads_share_a_writer(tmp_path: Path, make_writer: _Closing) -> None:
    writer = make_writer(FileSink(str(tmp_path / "log")))

    def write(name: int) -> None:
        for number in range(2000):
            writer.write(f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(PATIENCE)
    assert len(set((tmp_path / "log").read_text().splitlines())) == 16_000


def test_a_sink_that_blocks_holds_up_nobody_and_what_is_too_much_is_counted_and_told(
    make_writer: _Closing, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Blocked()
    writer = make_writer(sink, max_waiting=1000)
    began = time.monotonic()
    for _ in range(1000):
        writer.write("0123456789\n")
    assert time.monotonic() - began < 1.0
    assert writer.dropped > 800
    sink.free.set()
    assert writer.flush(PATIENCE)
    assert len(sink.lines) + writer.dropped == 1000
    assert any("lines were dropped" in one.getMessage() for one in caplog.records)
    writer.write("again\n")
    assert writer.flush(PATIENCE)
    assert sink.lines[-1] == "again\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk_drops_lines_and_nothing_else(make_writer: _Closing, caplog: pytest.LogCaptureFixture) -> None:
    writer = make_writer(FileSink("/dev/full"))
    for _ in range(100):
        writer.write("a line\n")
    assert writer.flush(PATIENCE)
    assert (writer.written, writer.dropped) == (0, 100)
    assert any(os.strerror(errno.ENOSPC) in one.getMessage() for one in caplog.records)


def test_a_disk_that_fills_up_in_the_middle_counts_the_lines_that_are_whole(tmp_path: Path) -> None:
    script = """
        import resource, signal, sys
        from meshsdk.access_log.sinks import FileSink
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (25, 25))
        print(FileSink(sys.argv[1]).write(["0123456789\\n"] * 5))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "log")]
    told = subprocess.run(command, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert told.stdout.strip() == "2"


@pytest.mark.parametrize("path", ["missing/log", "."])
def test_a_file_that_cannot_be_opened_is_tried_again(path: str, tmp_path: Path, make_writer: _Closing) -> None:
    writer = make_writer(FileSink(str(tmp_path / path)))
    writer.write("lost\n")
    assert writer.flush(PATIENCE)
    assert writer.dropped == 1
    if path == "missing/log":
        (tmp_path / "missing").mkdir()
        writer.write("found\n")
        assert writer.flush(PATIENCE)
        assert (tmp_path / path).read_text() == "found\n"


def test_a_pipe_that_nobody_reads_is_waited_for_by_nobody(tmp_path: Path, make_writer: _Closing) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = make_writer(FileSink(str(tmp_path / "pipe")))
    writer.write("lost\n")
    assert writer.flush(PATIENCE)
    assert writer.dropped == 1


@pytest.mark.parametrize("how", ["rename", "remove"])
def test_a_file_that_is_put_away_is_opened_anew(how: str, tmp_path: Path, make_writer: _Closing) -> None:
    writer = make_writer(FileSink(str(tmp_path / "log")))
    writer.write("old\n")
    assert writer.flush(PATIENCE)
    if how == "rename":
        (tmp_path / "log").rename(tmp_path / "log.1")
    else:
        (tmp_path / "log").unlink()
    writer.write("new\n")
    assert writer.flush(PATIENCE)
    assert (tmp_path / "log").read_text() == "new\n"
    assert how == "remove" or (tmp_path / "log.1").read_text() == "old\n"


def test_closing_writes_what_there_is_and_a_later_line_opens_the_log_again(
    tmp_path: Path, make_writer: _Closing
) -> None:
    writer = make_writer(FileSink(str(tmp_path / "log")))
    writer.write("first\n")
    writer.close()
    assert (tmp_path / "log").read_text() == "first\n"
    writer.write("second\n")
    assert writer.flush(PATIENCE)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_closing_does_not_wait_for_a_sink_that_blocks(make_writer: _Closing) -> None:
    writer = make_writer(Blocked())
    writer.write("stuck\n")
    time.sleep(0.1)
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 1.0


def test_handlers_of_logging_that_fail_cost_lines_only(make_writer: _Closing) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("broken")

    broken = logging.getLogger("broken.log")
    broken.addHandler(Broken())
    broken.setLevel(logging.INFO)
    writer = make_writer(LoggingSink("broken.log"))
    writer.write("lost\n")
    assert writer.flush(PATIENCE)
    assert writer.dropped == 1


ENDING = """
    import os, sys, threading
    from meshsdk.access_log.sinks import StreamSink
    from meshsdk.access_log.writer import Writer
    writer = Writer(StreamSink(1), "-")
    writer.write("before\\n")
    {body}
"""


def run(body: str) -> str:
    script = textwrap.dedent(ENDING).format(body=textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=CLEAN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


def test_a_process_that_ends_has_written_its_lines() -> None:
    assert run("writer.write('after\\n')") == "before\nafter\n"


def test_a_forked_child_writes_its_own_lines_and_none_of_its_parents() -> None:
    told = run(
        """
pid = os.fork()
writer.write("child\\n" if not pid else "parent\\n")
if not pid:
    writer.flush(5)
    os._exit(0)
os.waitpid(pid, 0)
"""
    )
    assert sorted(told.split()) == ["before", "child", "parent"]


def test_standard_output_that_is_closed_costs_lines_and_no_other_file_gets_them(tmp_path: Path) -> None:
    told = run(
        f"""
writer.flush(5)
os.close(1)
other = os.open({str(tmp_path / "other")!r}, os.O_WRONLY | os.O_CREAT)
assert other == 1
writer.write("after\\n")
assert writer.flush(5)
"""
    )
    assert told == "before\nafter\n"  # The writer has one of its own.
    assert (tmp_path / "other").read_text() == ""


def test_standard_output_whose_reader_is_gone_costs_lines_only() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = textwrap.dedent(ENDING).format(body="assert writer.flush(5); sys.exit(writer.dropped)")
    done = subprocess.run(
        [sys.executable, "-c", script], env=CLEAN_ENVIRONMENT, stdout=writing, timeout=PATIENCE, check=False
    )
    os.close(writing)
    assert done.returncode == 1


def test_a_stream_is_written_beside_what_python_has_in_hand(capfd: pytest.CaptureFixture[str]) -> None:
    sink = StreamSink(2)
    assert sink.write(["a line\n"]) == 1
    sink.close()
    assert capfd.readouterr().err == "a line\n"


def test_an_idle_writer_costs_nothing(tmp_path: Path, make_writer: _Closing) -> None:
    writer = make_writer(FileSink(str(tmp_path / "log")))
    writer.write("one\n")
    assert writer.flush(PATIENCE)
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 0.1
