"""Faults on purpose in one run: performs those that hit its input and its workers, keeps the log.

What is hit, and when, is decided by faults.py; the calls of handlers suffer in executors/.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from .codecs import Block
from .dead_letters import ErrorInfo
from .faults import Fault, FaultLog, FaultPlan, InjectedError, KeptFault, draw, parse_fault
from .reading import Reader

_LOOK_S: Final = 0.01
_SIGNALS: Final = {"kill-worker": signal.SIGKILL, "stop-worker": signal.SIGSTOP}


class Target(Protocol):
    """A worker process."""

    @property
    def is_busy(self) -> bool:
        """Whether it has work in its hands."""
        ...

    def strike(self, number: int) -> None:
        """Send it a signal."""
        ...


class Injection:
    """The faults of one run: their plan, what they did, and what was broken meanwhile."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self._faults = list(plan.faults)
        """Those of earlier sittings behind them."""
        self._log = FaultLog(plan.faults)
        self._violations = [0] * len(plan.faults)
        self._unattributed = 0
        self._seen = (0, 0)
        self._read: dict[int, int] = {}  # records that each source gave, by partition

    def note(self, fault: int, at_ns: int, count: int = 1) -> None:
        """A fault fired so often at a moment (monotonic)."""
        self._log.note(fault, at_ns, count)

    # --- the input

    @property
    def doubles(self) -> bool:
        """Whether sources give some records twice."""
        return any(fault.kind == "duplicate" for fault in self.plan.faults)

    def doubled(self, reader: Reader, block: Block) -> Block:
        """The next block of a reader, with some of its records twice."""
        if reader.format == "csv":
            block.drop_blanks(reader.delimiter or ",")
        first = self._read.get(reader.partition, 0)
        self._read[reader.partition] = first + block.count
        places: list[int] = []
        now = time.monotonic_ns()
        for place in range(block.count):
            fault = self.plan.duplicated_by(reader.partition, first + place)
            places.append(place)
            if fault is not None:
                places.append(place)
                self.note(fault, now)
        return block.only(places)

    def places(self, numbers: Sequence[int]) -> list[int] | None:
        """The places of events on their way to the first stage: without those that are dropped,
        and in the order in which they are sent on; None: all, as they are."""
        now = time.monotonic_ns()
        kept: list[int] = []
        for place, number in enumerate(numbers):
            fault = self.plan.dropped_by(number)
            if fault is None:
                kept.append(place)
            else:
                self.note(fault, now)
        order = self.plan.order_of([numbers[place] for place in kept])
        if order is None:
            return kept if len(kept) < len(numbers) else None
        assert self.plan.reorder_fault is not None
        moved = sum(at != place for at, place in enumerate(order))
        self.note(self.plan.reorder_fault, now, moved)
        return [kept[place] for place in order]

    # --- workers

    async def strike(self, targets: Callable[[], Sequence[Target]]) -> None:
        """Do what comes by time, from now on, until cancelled."""
        started_ns = time.monotonic_ns()
        fired = dict.fromkeys(self.plan.timed_faults, 0)
        while True:
            await asyncio.sleep(_LOOK_S)
            since_ns = time.monotonic_ns() - started_ns
            for number, times in fired.items():
                if self.plan.due(number, since_ns, times):
                    has_struck = self._strike(number, times, targets())
                    # A time of several that finds nobody passes: they are not to come all at once.
                    fired[number] += has_struck or self.plan.faults[number].at_ns is None

    def _strike(self, number: int, times: int, targets: Sequence[Target]) -> bool:
        """Whether there was somebody to strike."""
        kind = self.plan.faults[number].kind
        if kind == "stop-worker":
            # One that has nothing to do would be missed by nobody, until the run waits for its end.
            targets = [target for target in targets if target.is_busy]
        if not targets:
            return False
        chosen = int(draw(self.plan.seed, number, times, 0) * len(targets))
        targets[chosen].strike(_SIGNALS[kind])
        self.note(number, time.monotonic_ns())
        return True

    # --- what was broken meanwhile

    def buried(self, error: ErrorInfo) -> None:
        """An event died: of an error on purpose, whenever that was, or of something just now."""
        if error.type == InjectedError.__name__:
            for number, fault in enumerate(self._faults):
                if error.message == str(InjectedError(fault.text)):
                    self._violations[number] += 1
                    return
        self.broke()

    def broke(self, count: int = 1) -> None:
        """So many promises did not hold, or events died, just now."""
        if count <= 0:
            return
        text = self._log.at(time.monotonic_ns())
        if text is None:
            self._unattributed += count
            return
        number = next(n for n, fault in enumerate(self._faults) if fault.text == text)
        self._violations[number] += count

    def begin(
        self,
        violations: int,
        duplicates: int,
        kept: Sequence[KeptFault],
        unattributed: int,
        origin_ns: int,
    ) -> None:
        """What earlier sittings found broken, and what their faults did: they may be others."""
        self._seen = violations, duplicates
        self._unattributed = unattributed
        places = _places_of(kept, self._faults)
        self._log = FaultLog(self._faults)
        self._violations = [0] * len(self._faults)
        for each, place in zip(kept, places, strict=True):
            self._log.go_on_from(place, each, origin_ns)
            self._violations[place] = each.violations

    def kept(self, origin_ns: int) -> tuple[list[KeptFault], int]:
        """What begin() of a later sitting is to be given, and how much is put down to no fault."""
        reports = zip(self._log.report(origin_ns), self._violations, strict=True)
        faults = [
            KeptFault(each["text"], each["fired"], each["windows"], violations)
            for each, violations in reports
        ]
        return faults, self._unattributed

    def look(self, violations: int, duplicates: int) -> None:
        """How often the order was found broken by now, and events that arrived twice.

        Where the input is reordered, that is why, however long its events waited to be handled.
        """
        before, self._seen = self._seen, (violations, duplicates)
        self.broke(duplicates - before[1])
        if self.plan.reorder_fault is not None:
            self._violations[self.plan.reorder_fault] += violations - before[0]
        else:
            self.broke(violations - before[0])

    def report(self, origin_ns: int, lost: int) -> dict[str, Any]:
        """What the result says: times in ns since `origin_ns`; `lost` events of the whole run."""
        faults = self._log.report(origin_ns)
        violations = self._violations.copy()
        for number, fault in enumerate(self._faults):
            if fault.kind == "drop":
                own = min(lost, faults[number]["fired"])
                violations[number] += own
                lost -= own
        for entry, count in zip(faults, violations, strict=True):
            entry["violations"] = count
        return {"faults": faults, "unattributed": self._unattributed + lost}


def _places_of(kept: Sequence[KeptFault], faults: list[Fault]) -> list[int]:
    """Where in `faults` those of earlier sittings stand; what is not there is added."""
    free = list(enumerate(faults))
    places = []
    for each in kept:
        found = next((entry for entry in free if entry[1].text == each.text), None)
        if found is not None:
            free.remove(found)
            places.append(found[0])
        else:
            places.append(len(faults))
            faults.append(parse_fault(each.text))
    return places
