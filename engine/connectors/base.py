"""What a run reads from and writes to: protocols that every kind of connector keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class ConnectorError(Exception):
    """An input or output can't be used; the message says which, why, and what to do."""


class OutputError(ConnectorError):
    """Of these, an output: what was written to it may be cut off anywhere."""


class Source(Protocol):
    """One input, and one partition: bytes in order."""

    name: str
    size: int | None
    """Bytes as stored, when that is known: for the progress line."""
    bytes_read: int
    can_seek: bool
    """Whether reading may begin in the middle: it is a file whose content stays."""

    def seek(self, offset: int) -> None:
        """Let chunks() begin at `offset`; only when it can."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as stored, in pieces of any size, until the end or stop()."""
        ...

    def stop(self) -> None:
        """End chunks() as soon as may be; what was given stays given."""
        ...


class Sink(Protocol):
    """Where output events go."""

    name: str
    can_be_cut: bool
    """Whether what was written since a mark can be taken back."""

    def keep(self, id: str, length: int | None) -> None:
        """What is written stays when the run ends too early, so that it can go on; before open().

        `id` tells it from that of other runs. `length`: go on from this mark of an earlier sitting.
        """
        ...

    def forget(self, id: str) -> None:
        """What stays of that run, under this name, will not be gone on with; before open()."""
        ...

    async def open(self) -> None:
        """Make sure that it can be written to. Raises OutputError."""
        ...

    async def write(self, data: bytes) -> None:
        """Add whole lines. Raises OutputError, BrokenPipeError when nobody reads on."""
        ...

    async def mark(self) -> int:
        """How long it is now, to be cut back to; what is written later stands on its own."""
        ...

    def sync(self) -> None:
        """Wait until all that was written is on the disk. Blocks. Raises OutputError."""
        ...

    def identity(self) -> str | None:
        """What tells it from another of its name, now and when it was made last."""
        ...

    def is_complete(self, identity: str | None = None) -> bool:
        """Whether it was made last already, and has not gone; after keep(). With `identity`, that
        it is still the same one."""
        ...

    async def commit(self) -> None:
        """All is written: make it last, under its own name."""
        ...

    def drop(self, *, keep: bool) -> str | None:
        """The process ends at once: leave nothing behind that is incomplete, or `keep` what is
        written, and say where. Called by another thread."""
        ...

    async def abandon(self, *, keep: bool) -> str | None:
        """It will not be completed; `keep` what there is, and say where."""
        ...
