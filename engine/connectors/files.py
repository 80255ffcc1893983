"""Files: as sources (also growing ones), and as sinks that are complete or absent."""

from __future__ import annotations

import asyncio
import errno
import glob
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import aiofiles

from ..codecs import Compressor, compressor_for
from ..durable import sync_folder_of
from .base import ConnectorError, OutputError
from .pipes import PipeReader, widen

READ_BYTES: Final = 64 * 1024
THREAD_READ_BYTES: Final = 1024 * 1024
POLL_S: Final = 0.1


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """The files that names and patterns stand for, in the order given, each pattern's sorted.

    Raises ConnectorError.
    """
    found: list[str] = []
    for pattern in patterns:
        if pattern == "-" or os.path.exists(pattern):
            names = [pattern]
        elif glob.has_magic(pattern):
            names = sorted(glob.glob(pattern, recursive=True))
            if not names:
                raise ConnectorError(f"no file matches {pattern!r}")
        else:
            raise ConnectorError(f"no input {pattern!r}: there is no such file")
        for name in names:
            if os.path.isdir(name):
                raise ConnectorError(f"input {name!r} is a folder; name its files: '{name}/*'")
            if name != "-" and not os.access(name, os.R_OK):
                raise ConnectorError(f"input {name!r} can't be read: permission denied")
            found.append(name)
    return found


class FileSource:
    """A file; with `follow`, also what is added to it later.

    What the page cache holds is read at once (RWF_NOWAIT: the kernel says so when it would block);
    what it does not, in a thread, in larger pieces. What is no regular file, such as a named pipe,
    is read as it comes.
    """

    def __init__(self, path: str, *, follow: bool = False) -> None:
        self.name = path
        self.size = _size(path)
        self.bytes_read = 0
        self.can_seek = self.size is not None
        self.keeps_place = False
        """Whether a file that was cut shorter can't be begun anew: places in it are remembered."""
        self._follow = follow
        self._stopped = asyncio.Event()
        self._pipe: PipeReader | None = None
        self._seekable = self.size is not None
        self._buffer = bytearray(READ_BYTES)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as stored. Raises ConnectorError."""
        try:
            # To open a file is as good as never slow. Not to wait for the writer of a named pipe.
            fd = os.open(self.name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                chunks = self._pieces_of(fd) if self.size is None else self._chunks_of(fd)
                async for chunk in chunks:
                    self.bytes_read += len(chunk)
                    yield chunk
            finally:
                os.close(fd)
        except OSError as error:
            again = "; put it right, then go on with --resume" if self.keeps_place else ""
            raise ConnectorError(
                f"input {self.name!r} can't be read: {error.strerror}{again}"
            ) from error

    async def _chunks_of(self, fd: int) -> AsyncIterator[bytes]:
        """Of a regular file."""
        while not self._stopped.is_set():
            chunk = self._read_cached(fd)
            if chunk is None:
                chunk = await asyncio.to_thread(os.pread, fd, THREAD_READ_BYTES, self.bytes_read)
            if chunk:
                yield chunk
            elif not self._follow:
                self._check_whole(fd)
                return
            elif not await self._grown(fd):
                return

    def _check_whole(self, fd: int) -> None:
        """That the end of a file is not where somebody has cut it meanwhile."""
        if self.size is not None and os.fstat(fd).st_size < self.size:
            raise ConnectorError(
                f"input {self.name!r} was cut shorter while it was read: it had {self.size:,} "
                f"bytes, and now it has {os.fstat(fd).st_size:,}; put it back as it was, then "
                f"{'go on with --resume' if self.keeps_place else 'run it again'}"
            )

    async def _pieces_of(self, fd: int) -> AsyncIterator[bytes]:
        """Of a pipe or a device, whoever writes to it; with `follow`, also of writers to come."""
        self._pipe = PipeReader(fd)
        widen(fd)
        while not self._stopped.is_set():
            chunk = await self._pipe.read()
            if chunk:
                yield chunk
            elif not (self._follow and not await self._stopped_within(POLL_S)):
                return

    def _read_cached(self, fd: int) -> bytes | None:
        """The next bytes if no disk is needed for them; b"" at the end, None when unknown."""
        if not self._seekable:
            return None
        try:
            count = os.preadv(fd, [self._buffer], self.bytes_read, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except (OSError, AttributeError):  # a file system without RWF_NOWAIT
            self._seekable = False
            return None
        return bytes(memoryview(self._buffer)[:count])

    async def _grown(self, fd: int) -> bool:
        """Wait until the file has more; a file cut shorter is begun anew. False when stopped."""
        while not self._stopped.is_set():
            size = os.fstat(fd).st_size
            if size < self.bytes_read:
                if self.keeps_place:
                    raise ConnectorError(
                        f"input {self.name!r} was cut shorter while it was followed: where the run "
                        "stood in it is lost; begin anew with another checkpoint"
                    )
                self.bytes_read = 0
            if size != self.bytes_read:
                return True
            await self._stopped_within(POLL_S)
        return False

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    def seek(self, offset: int) -> None:
        self.bytes_read = offset

    def stop(self) -> None:
        self._stopped.set()
        if self._pipe is not None:
            self._pipe.stop()


def _identity_of(facts: os.stat_result) -> str:
    return f"{facts.st_dev}:{facts.st_ino}"


def _size(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if os.path.isfile(path) else None


class FileSink:
    """A file that appears under its name only when it is complete.

    Compressed by the ending of its name (.gz, .zst). What is no regular file (a device, a named
    pipe) is written as it is.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._path = Path(path)
        self._special = self._path.exists() and not self._path.is_file()
        self.can_be_cut = not self._special
        self._writing = self._path
        self._kept: str | None = None
        self._size = 0  # bytes in the file
        self._clean = True  # whether nothing was written since a mark
        self._compressor: Compressor | None = None
        self._file: Any = None
        self._room: int | None = None
        self._why_full = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="millstream-output")

    def fill_up_at(self, size: int, why: str) -> None:
        """Let the disk be full when the file has `size` bytes."""
        self._room, self._why_full = size, why

    def keep(self, id: str, length: int | None) -> None:
        self._kept, self._size = id, 0 if self._special else length or 0

    def forget(self, id: str) -> None:
        if not self._special:
            with suppress(OSError):  # it may be in the way, but does no harm
                self._part_of(id).unlink(missing_ok=True)

    def _part_of(self, whose: str | int) -> Path:
        path = Path(os.path.realpath(self._path))
        return path.with_name(f".{path.name}.{whose}.part")

    async def open(self) -> None:
        if self._path.is_dir():
            raise OutputError(f"output {self.name!r} is a folder; name a file in it")
        if not self._special:
            self._path = Path(os.path.realpath(self._path))
            self._writing = self._part_of(self._kept or os.getpid())
        self._compressor = compressor_for(self.name)
        try:
            await self._open_file()
        except OSError as error:
            raise self._failed(error) from error

    async def _open_file(self) -> None:
        if self._size:
            self._check_length()
            os.truncate(self._writing, self._size)
        mode: Literal["ab", "wb"] = "ab" if self._size else "wb"
        self._file = await aiofiles.open(self._writing, mode, buffering=0, executor=self._thread)
        if self._kept and not self._special:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, sync_folder_of, self._writing)

    def _check_length(self) -> None:
        """That what stayed of an earlier sitting has all that it had then."""
        size = self._writing.stat().st_size if self._writing.exists() else None
        if size is None or size < self._size:
            why = "is not there" if size is None else f"has {size:,} bytes only"
            raise OutputError(
                f"output {self.name!r} can't be gone on with: {self._writing}, which held its "
                f"first {self._size:,} bytes, {why}; put it back, or begin anew with another "
                "checkpoint"
            )

    def identity(self) -> str | None:
        return None if self._special else _identity_of(os.fstat(self._file.fileno()))

    def is_complete(self, identity: str | None = None) -> bool:
        if self._special:
            return True
        path = Path(os.path.realpath(self._path))
        if self._part_of(self._kept or "").exists() or not path.is_file():
            return False
        return identity is None or identity == _identity_of(path.stat())

    async def mark(self) -> int:
        try:
            if self.can_be_cut and not self._clean:
                if self._compressor is not None:
                    await self._end_packed()
                    self._compressor = compressor_for(self.name)
                self._clean = True
        except OSError as error:
            raise self._failed(error) from error
        return self._size

    async def _end_packed(self) -> None:
        assert self._compressor is not None
        loop = asyncio.get_running_loop()
        await self._write_all(await loop.run_in_executor(self._thread, self._compressor.flush))

    def sync(self) -> None:
        try:
            if self.can_be_cut:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    async def write(self, data: bytes) -> None:
        if data:
            self._clean = False
        try:
            if self._compressor is not None:
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(self._thread, self._compressor.compress, data)
            await self._write_all(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    async def _write_all(self, data: bytes) -> None:
        self._check_place()
        if self._room is not None and self._size + len(data) > self._room:
            fitting = data[: max(0, self._room - self._size)]
            self._room = None
            await self._write_all(fitting)
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({self._why_full})")
        written = await self._file.write(data) if data else 0
        while written < len(data):
            written += await self._file.write(memoryview(data)[written:])
        self._size += written

    def _check_place(self) -> None:
        """That the file is still there: what is written to one that was removed is lost."""
        if not self._special and not os.fstat(self._file.fileno()).st_nlink:
            raise OutputError(
                f"output {self.name!r} can't be written: {self._writing}, where its results stood, "
                f"was removed during the run; they are lost: {self._anew()}"
            )

    async def commit(self) -> None:
        try:
            if self._compressor is not None and not (self._clean and self._size):
                await self._end_packed()
            self._check_place()
            await self._file.close()
        except OutputError:
            await self.abandon(keep=False)
            raise
        except OSError as error:
            await self.abandon(keep=False)
            raise self._failed(error) from error
        self._file = None
        try:
            await self._put_in_place()
        except OSError as error:
            raise OutputError(
                f"output {self.name!r} can't be put in its place: {error.strerror}; all results "
                f"are in {self._writing}{self._moved()}: {self._finish()}"
            ) from error
        finally:
            self._thread.shutdown(wait=False)

    async def _put_in_place(self) -> None:
        if self._special:
            return
        keep_mode(self._path, self._writing)
        os.replace(self._writing, self._path)
        if self._kept:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, sync_folder_of, self._path)

    def _anew(self) -> str:
        return "begin anew with another checkpoint" if self._kept else "run it again"

    def _moved(self) -> str:
        return "" if self._writing.exists() else ", wherever its folder was moved"

    def _finish(self) -> str:
        if self._kept:
            return "put right what is in the way, and finish it by --resume"
        return "put right what is in the way, and rename it"

    def drop(self, *, keep: bool) -> str | None:
        if self._file is None or self._special or self._kept:
            return None
        if keep and self._writing.stat().st_size:
            return self._put_aside()
        self._writing.unlink(missing_ok=True)
        return None

    def _put_aside(self) -> str:
        kept = f"{self._path}.partial"
        os.replace(self._writing, kept)
        return kept

    async def abandon(self, *, keep: bool) -> str | None:
        if self._file is None:
            return None
        kept = None
        try:
            if keep and self._compressor is not None:
                await self._write_all(self._compressor.flush())
            await self._file.close()
            if self._special:
                return None
            if self._kept:
                return str(self._writing)
            if keep and self._writing.stat().st_size:
                kept = self._put_aside()
            else:
                self._writing.unlink(missing_ok=True)
        except OSError:
            return None
        finally:
            self._file = None
            self._thread.shutdown(wait=False)
        return kept

    def _failed(self, error: OSError) -> OutputError:
        what = "nothing was put in its place"
        if self._kept and not self._special:
            what = f"what was written stays in {self._writing}"
        advice = f"{remedy(error)}, then {'--resume' if self._kept else 'run it again'}"
        if self._special:
            what = "what was written went there"
        return OutputError(
            f"output {self.name!r} can't be written: {error.strerror}; {what}: {advice}"
        )


def remedy(error: OSError) -> str:
    """What to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if error.errno == errno.EFBIG:
        return "allow larger files"
    return "see to it that it can be written"


def keep_mode(path: Path, writing: Path) -> None:
    """Give the file at `writing`, which is to take its place, the mode of the one at `path`."""
    if path.exists():
        os.chmod(writing, path.stat().st_mode & 0o7777)
