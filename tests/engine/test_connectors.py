"""Files and standard streams, as sources and as sinks that are complete or absent."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import os
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zstandard

from millstream.engine.connectors.base import ConnectorError, Sink
from millstream.engine.connectors.files import READ_BYTES, FileSink, FileSource, find_inputs
from millstream.engine.connectors.pipes import PipeReader
from millstream.engine.connectors.stdio import NoSink

T = TypeVar("T")


def do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def whole(source: FileSource) -> bytes:
    return b"".join([chunk async for chunk in source.chunks()])


# --- finding


def test_names_stay_in_order_and_patterns_are_sorted(tmp_path: Path) -> None:
    for name in ("b", "a2", "a1", "[x]"):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c").touch()
    path = str(tmp_path)

    found = find_inputs([f"{path}/b", f"{path}/a*", "-", f"{path}/[x]", f"{path}/**/c"])

    assert found == [f"{path}/{name}" if name != "-" else "-" for name in (
        "b", "a1", "a2", "-", "[x]", "deep/er/c",
    )]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent", "there is no such file"), ("*.absent", "no file matches"), ("", "is a folder")],
)
def test_what_can_not_be_found_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConnectorError, match=said):
        find_inputs([f"{tmp_path}/{name}"])


# --- reading


@pytest.mark.parametrize("size", [0, 1, READ_BYTES - 1, READ_BYTES, 3 * READ_BYTES + 7])
def test_a_file_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "in").write_bytes(content)
    source = FileSource(str(tmp_path / "in"))

    read = do(whole(source))

    assert read == content
    assert (source.size, source.bytes_read) == (size, size)


@pytest.mark.parametrize("size", [10, 3 * READ_BYTES + 7])
def test_where_the_kernel_can_not_say_what_is_cached_threads_read(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(size)
    (tmp_path / "in").write_bytes(content)

    def refuse(*arguments: object) -> int:
        raise OSError("not supported")

    monkeypatch.setattr(os, "preadv", refuse)

    assert do(whole(FileSource(str(tmp_path / "in")))) == content


def test_what_is_cached_in_part_only_is_read_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5 * READ_BYTES)
    (tmp_path / "in").write_bytes(content)
    real, turns = os.preadv, iter([False, True] * 100)

    def sometimes(*arguments: Any) -> int:
        if next(turns):
            raise BlockingIOError
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", sometimes)

    assert do(whole(FileSource(str(tmp_path / "in")))) == content


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    async def read() -> bytes:
        source = FileSource(str(tmp_path / "pipe"))
        written = asyncio.to_thread((tmp_path / "pipe").write_bytes, b"through the pipe")
        _, got = await asyncio.gather(written, whole(source))
        assert source.size is None
        return got

    assert do(read()) == b"through the pipe"


def test_a_pipe_may_have_any_descriptor(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1100:
        pytest.skip("no descriptor beyond 1023 can be had")
    reading, writing = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    try:
        high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1024)
        os.write(writing, b"here")

        assert do(PipeReader(high).read()) == b"here"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in (reading, writing, high):
            os.close(each)


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    source = FileSource(str(tmp_path / "gone"))

    with pytest.raises(ConnectorError, match="gone' can't be read: No such file"):
        do(whole(source))


def test_a_stopped_source_gives_no_more(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(3 * READ_BYTES))

    async def read() -> int:
        source = FileSource(str(tmp_path / "in"))
        total = 0
        async for chunk in source.chunks():
            total += len(chunk)
            source.stop()
        return total

    assert do(read()) == READ_BYTES


def test_a_followed_file_gives_what_is_added_until_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"one")

    async def read() -> list[bytes]:
        source = FileSource(str(path), follow=True)
        got: list[bytes] = []
        async for chunk in source.chunks():
            got.append(chunk)
            if chunk == b"one":
                with path.open("ab") as file:
                    file.write(b"two")
            elif chunk == b"two":
                path.write_bytes(b"3")  # cut short and begun anew
            else:
                source.stop()
        return got

    assert do(read()) == [b"one", b"two", b"3"]


# --- writing


def in_folder(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "unpack"),
    [
        ("out", bytes),
        ("out.gz", gzip.decompress),
        ("out.zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
def test_a_file_appears_when_it_is_committed(tmp_path: Path, name: str, unpack: Any) -> None:
    sink = FileSink(str(tmp_path / name))

    async def write() -> bool:
        await sink.open()
        await sink.write(b"one\n")
        await sink.write(b"two\n" * 100_000)
        there = (tmp_path / name).exists()
        await sink.commit()
        return there

    assert do(write()) is False
    assert {k: unpack(v) for k, v in in_folder(tmp_path).items()} == {
        name: b"one\n" + b"two\n" * 100_000
    }


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(False, {"out": b"old"}), (True, {"out": b"old", "out.partial": b"new"})],
)
def test_what_is_abandoned_leaves_the_old_file(
    tmp_path: Path, keep: bool, expected: dict[str, bytes]
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    sink = FileSink(str(tmp_path / "out"))

    async def write() -> str | None:
        await sink.open()
        await sink.write(b"new")
        return await sink.abandon(keep=keep)

    kept = do(write())

    assert in_folder(tmp_path) == expected
    assert kept == (f"{tmp_path}/out.partial" if keep else None)


def test_what_is_kept_of_a_packed_file_can_be_unpacked(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "out.gz"))

    async def write() -> None:
        await sink.open()
        await sink.write(b"so far\n")
        await sink.abandon(keep=True)

    do(write())

    assert gzip.decompress((tmp_path / "out.gz.partial").read_bytes()) == b"so far\n"


def test_nothing_to_keep_leaves_nothing(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "out"))

    async def write() -> str | None:
        await sink.open()
        return await sink.abandon(keep=True)

    assert do(write()) is None
    assert in_folder(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "said"), [("absent/out", "No such file"), (".", "is a folder; name a file in it")]
)
def test_a_sink_that_can_not_be_opened_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConnectorError, match=said):
        do(FileSink(str(tmp_path / name)).open())


def test_a_full_disk_is_named() -> None:
    async def write() -> None:
        sink = FileSink("/dev/full")
        await sink.open()
        try:
            await sink.write(b"x")
        finally:
            await sink.abandon(keep=True)

    with pytest.raises(ConnectorError, match="No space left on device"):
        do(write())


def test_a_device_is_written_and_stays() -> None:
    async def write() -> None:
        sink = FileSink("/dev/null")
        await sink.open()
        await sink.write(b"x")
        await sink.commit()

    do(write())

    assert not Path("/dev/null").is_file()


def test_no_sink_takes_all_and_keeps_nothing() -> None:
    async def write(sink: Sink) -> str | None:
        await sink.open()
        await sink.write(b"x")
        await sink.commit()
        return await sink.abandon(keep=True)

    assert do(write(NoSink())) is None
