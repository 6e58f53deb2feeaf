"""Where log lines go: pipes that nobody reads, broken pipes, full disks and files that are renamed."""

from __future__ import annotations

import errno
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from greendaphne.logs import sink as module
from greendaphne.logs.sink import QUEUE_LIMIT, Sink
from greendaphne.monitoring.gauges import log_families
from tests.support.server import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]


class Reports:
    """What a sink tells, for the test's thread."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def __call__(self, text: str, over: bool) -> None:
        self.queue.put((text, over))

    def next(self) -> tuple[str, bool]:
        return self.queue.get(timeout=PATIENCE)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture(autouse=True)
def _no_quiet_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble is over as soon as it is."""
    monkeypatch.setattr(module, "QUIET", 0.0)


def read_all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 65536):
        data += piece
    return data


@pytest.mark.parametrize("gather", [0.0, 0.001])
def test_lines_of_several_threads_in_their_order(tmp_path: Path, gather: float) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    sink = Sink.open(str(path), "the log", gather=gather)

    def write(name: str) -> None:
        for number in range(2000):
            sink.write(f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.flush(PATIENCE)
    lines = path.read_text().splitlines()
    sink.close()
    sink.close()
    assert lines[0] == "before"
    for name in "xyz":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(2000)]
    assert len(lines) == 6001


def test_what_utf8_has_not_is_escaped(tmp_path: Path) -> None:
    sink = Sink.open(str(tmp_path / "log"), "the log")
    sink.write("é \ud800\n")
    sink.close()
    assert (tmp_path / "log").read_bytes() == b"\xc3\xa9 \\ud800\n"


def test_pipe_that_nobody_reads(pipe: tuple[int, int], reports: Reports) -> None:
    """Whoever writes never waits; what there is no room for is lost, counted, and told."""
    reader, writer = pipe
    sink = Sink(writer, "the log", report=reports)
    line = "x" * 99 + "\n"
    count = 2 * QUEUE_LIMIT // len(line)
    for _ in range(count):
        sink.write(line)
    assert reports.next() == ("Lines of the log are lost: its destination takes them too slowly, or not at all", False)
    assert not sink.flush(0.01)
    thread = threading.Thread(target=lambda: results.append(read_all(reader)))
    results: list[bytes] = []
    thread.start()
    text, over = reports.next()
    assert over
    lost = int(text.split()[0])
    assert text == f"{lost} lines of the log were lost; further ones are written again"
    sink.write("last\n")
    sink.close()
    os.close(writer)
    thread.join(PATIENCE)
    received = results[0].count(line.encode())
    assert results[0].endswith(b"\nlast\n")
    assert received + lost == count
    assert reports.queue.empty()


def test_end_does_not_wait_for_a_pipe_that_nobody_reads(pipe: tuple[int, int], reports: Reports) -> None:
    _, writer = pipe
    sink = Sink(writer, "the log", report=reports)
    for _ in range(1000):
        sink.write("x" * 999 + "\n")
    sink.close(0.01)
    text, over = reports.next()
    assert over
    assert text.endswith(" lines of the log were lost")
    assert int(text.split()[0]) > 900
    # And once more, as at the end of a process.
    assert not sink.flush(0.01)


def test_writes_to_a_pipe_are_whole_lines_that_others_cannot_cut() -> None:
    # In this mode every write is read by itself.
    reader, writer = os.pipe2(os.O_DIRECT)
    text = "".join(f"{number} {'y' * 700}\n" for number in range(50))
    sink = Sink(writer, "the log", gather=0.02)
    for line in text.splitlines(keepends=True):
        sink.write(line)
    received = b""
    while len(received) < len(text):
        received += os.read(reader, 65536)
        assert received.endswith(b"\n")
    sink.close()
    os.close(reader)
    os.close(writer)
    assert received.decode() == text


def test_broken_pipe(pipe: tuple[int, int], reports: Reports) -> None:
    reader, writer = pipe
    os.close(reader)
    sink = Sink(writer, "the log", report=reports)
    for _ in range(5):
        sink.write("x\n")
        sink.flush(PATIENCE)
    assert reports.next() == ("Cannot write to the log: [Errno 32] Broken pipe; lines are lost until that is possible", False)
    assert reports.queue.empty()
    sink.close()
    assert reports.next() == ("5 lines of the log were lost", True)


def test_full_disk(reports: Reports) -> None:
    sink = Sink.open("/dev/full", "the log", report=reports)
    for _ in range(5):
        sink.write("x\n")
        sink.flush(PATIENCE)
    assert reports.next() == ("Cannot write to the log: [Errno 28] No space left on device; lines are lost until that is possible", False)
    assert reports.queue.empty()
    sink.close()
    assert reports.next() == ("5 lines of the log were lost", True)


class Disk:
    """Stands for the system call: what is written to ``fd`` finds room for so many bytes."""

    def __init__(self, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._fd = fd
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: bytes | memoryview) -> int:
        if fd == self._fd and self.room is not None:
            if self.room == 0:
                raise OSError(errno.EIO, "Input/output error")
            data = memoryview(data)[: self.room]
            self.room -= len(data)
        return self._write(fd, data)


def test_lines_that_are_lost_are_counted(pipe: tuple[int, int]) -> None:
    def lost() -> tuple[int, int]:
        (family,) = log_families()
        by_log = {sample.labels["log"]: int(sample.value) for sample in family.samples}
        assert (family.name, sorted(by_log)) == ("greendaphne_log_lines_dropped", ["access", "error"])
        return by_log["error"], by_log["access"]

    error, access = lost()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = Sink(full, "the access log")
        for _ in range(3):
            sink.write("a line\n")
        assert sink.flush()
        sink.close()
        assert lost() == (error, access + 3)
        # A pipe that nobody reads: lines beyond the queue, and those that are left at the end.
        sink = Sink(pipe[1], "the log")
        line = "x" * (QUEUE_LIMIT // 4) + "\n"
        for _ in range(12):
            sink.write(line)
        dropped = lost()[0] - error
        assert dropped > 0
        sink.close(0.1)
        # Those that are being written are counted later.
        assert 9 <= lost()[0] - error <= 12
    finally:
        os.close(full)


def test_half_a_line_is_ended_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    disk = Disk(fd, monkeypatch)
    sink = Sink(fd, "the log", gather=0.02)
    disk.room = 9
    for line in "first\n", "second\n", "third\n":
        sink.write(line)
    assert sink.flush(PATIENCE)
    disk.room = None
    sink.write("fourth\n")
    assert sink.flush(PATIENCE)
    sink.close()
    os.close(fd)
    assert path.read_text() == "first\nsec\nfourth\n2 lines of the log were lost; further ones are written again\n"


def test_renamed_file_is_opened_anew_by_request(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    sink = Sink.open(str(path), "the log", report=reports)
    sink.write("a\n")
    assert sink.flush(PATIENCE)
    path.rename(tmp_path / "log.1")
    sink.write("b\n")
    assert sink.flush(PATIENCE)
    assert not path.exists()
    sink.reopen()
    sink.write("c\n")
    sink.close()
    assert (tmp_path / "log.1").read_text() == "a\nb\n"
    assert path.read_text() == "c\n"
    assert reports.queue.empty()


@pytest.mark.parametrize("replaced", [False, True])
def test_renamed_file_is_noticed(tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_INTERVAL", 0.0)
    path = tmp_path / "log"
    sink = Sink.open(str(path), "the log")
    sink.write("a\n")
    assert sink.flush(PATIENCE)
    path.rename(tmp_path / "log.1")
    if replaced:
        path.write_text("new\n")
    sink.write("b\n")
    sink.close()
    assert (tmp_path / "log.1").read_text() == "a\n"
    assert path.read_text() == ("new\nb\n" if replaced else "b\n")


def test_file_that_cannot_be_opened_anew_stays_open(tmp_path: Path, reports: Reports) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    sink = Sink.open(str(directory / "log"), "the log", report=reports)
    directory.rename(tmp_path / "gone")
    for _ in range(2):
        sink.reopen()
        sink.write("a\n")
        assert sink.flush(PATIENCE)
    text, over = reports.next()
    assert text == (
        f"Cannot reopen the log: [Errno 2] No such file or directory: '{directory / 'log'}'; lines still go to the previous file"
    )
    assert not over
    directory.mkdir()
    sink.reopen()
    sink.write("b\n")
    sink.close()
    assert reports.next() == ("the log is reopened", True)
    assert reports.queue.empty()
    assert (tmp_path / "gone" / "log").read_text() == "a\na\n"
    assert (directory / "log").read_text() == "b\n"


def test_request_to_open_anew_what_has_no_name(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink(writer, "the log")
    sink.reopen()
    sink.write("a\n")
    sink.close()
    os.close(writer)
    assert read_all(reader) == b"a\n"


def test_fifo_that_nobody_reads_yet(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    sink = Sink.open(str(path), "the log")
    sink.write("first\n")
    assert sink.flush(PATIENCE)
    reader = os.open(path, os.O_RDONLY)
    try:
        assert os.read(reader, 100) == b"first\n"
        sink.write("second\n")
        assert os.read(reader, 100) == b"second\n"
    finally:
        os.close(reader)
        sink.close()


def test_file_replaced_by_a_fifo_or_a_directory(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    sink = Sink.open(str(path), "the log", report=reports)
    sink.write("first\n")
    assert sink.flush(PATIENCE)
    path.rename(tmp_path / "old")
    path.mkdir()
    sink.reopen()
    assert reports.next()[0].startswith("Cannot reopen the log: [Errno 21] Is a directory")
    path.rmdir()
    os.mkfifo(path)
    sink.reopen()
    assert reports.next() == ("the log is reopened", True)
    sink.write("second\n")
    assert sink.flush(PATIENCE)
    assert (tmp_path / "old").read_text() == "first\n"
    sink.close()


def test_full_pipe_that_another_process_made_non_blocking_is_not_broken(pipe: tuple[int, int], reports: Reports) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    sink = Sink(writer, "the log", report=reports)
    lines = [f"{number:06} {'x' * 200}\n" for number in range(2000)]
    for line in lines:
        sink.write(line)
    with open(reader, closefd=False) as file:
        assert [file.readline() for _ in lines] == lines
    assert sink.flush(PATIENCE)
    assert reports.queue.empty()
    sink.close()


def test_end_does_not_wait_for_a_full_pipe_that_does_not_block(pipe: tuple[int, int], reports: Reports) -> None:
    os.set_blocking(pipe[1], False)
    sink = Sink(pipe[1], "the log", report=reports)
    for _ in range(1000):
        sink.write("x" * 200 + "\n")
    sink.close(0.1)
    assert reports.next()[0].endswith(" lines of the log were lost")


def test_nothing_is_written_behind_the_end(pipe: tuple[int, int], tmp_path: Path, reports: Reports) -> None:
    reader, writer = pipe
    sink = Sink(writer, "the log", report=reports)
    for _ in range(1000):
        sink.write("x" * 999 + "\n")
    deadline = monotonic() + PATIENCE
    while select.select([], [writer], [], 0)[1]:
        # The thread has not filled the pipe yet; without a write that waits it would only see that it is to end.
        assert monotonic() < deadline
        sleep(0.001)
    sink.close(0.01)
    # Another file gets the number; the thread, which waits in a write to the pipe, is let go.
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, writer)
    os.close(reader)
    ended = Sink(other, "the other")
    assert ended.flush(PATIENCE)
    ended.close()
    # Told by the thread once its write has failed.
    while "Cannot write" not in reports.next()[0]:
        pass
    assert os.fstat(other).st_size == 0
    os.close(other)


def test_short_lines_take_no_more_memory_than_long_ones(pipe: tuple[int, int], reports: Reports) -> None:
    sink = Sink(pipe[1], "the log", report=reports)
    number = 0
    while reports.queue.empty():
        sink.write(f"{number}\n")
        number += 1
        assert number * sys.getsizeof("000000\n") < 2 * QUEUE_LIMIT
    sink.close(0.1)


def test_renamed_file_is_noticed_in_an_endless_stream_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_INTERVAL", 0.0)
    path = tmp_path / "log"
    sink = Sink.open(str(path), "the log")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            sink.write("x" * 1000 + "\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        path.rename(tmp_path / "old")
        deadline = monotonic() + PATIENCE
        while not path.exists():
            assert monotonic() < deadline
    finally:
        stop.set()
        thread.join()
        sink.close()


def test_forked_process_writes_by_itself(tmp_path: Path) -> None:
    """Neither are the parent's lines written twice, nor is anything of the child's lost."""
    script = (
        "import os, sys\n"
        "from greendaphne.logs.sink import Sink\n"
        "sink = Sink.open('log', 'the log', gather=0.5)\n"
        "sink.write('parent\\n')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sink.write('child\\n')\n"
        "    assert sink.flush()\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "sink.close()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True, timeout=60)
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["child", "parent"]


@pytest.mark.parametrize("patched", [False, True])
def test_process_ends_behind_a_pipe_that_nobody_reads(patched: bool, pipe: tuple[int, int]) -> None:
    script = (
        ("from gevent import monkey; monkey.patch_all()\n" if patched else "") + "from greendaphne.logs.sink import Sink\n"
        "sink = Sink(1, 'the log')\n"
        "for _ in range(1000): sink.write('x' * 999 + '\\n')\n"
        "sink.close(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=pipe[1], cwd=CHECKOUT)
    assert process.wait(60) == 0
