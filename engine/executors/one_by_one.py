"""Plain handlers while something is amiss: something waits, a key is parked, a breaker is open.

Events are tried one at a time (or one group of a batch handler). The first of a lane that fails
waits for its time, and those of its lane behind it; all other lanes go on.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from ..batch import Batch, Value, by_partition, is_nothing
from ..dead_letters import ErrorInfo
from ..failure import WaitingRoom
from .base import StageContext, as_ints, now_ns
from .failing import MOST_WAITING, StageFailures, Trial, restored, snapshot

Call = Callable[[Sequence[Trial]], Sequence[Value]]
"""Calls the handler with the events of one or several trials; raises what it raises."""

_MOST_DONE: Final = 512


class Finished:
    """What came to an end, by column, until it is sent on."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.values: list[Value] = []
        self.starts, self.ends = array("q"), array("q")
        """0, 0: it was not handled."""

    def __len__(self) -> int:
        return len(self.trials)

    def add(self, trial: Trial, value: Value, start_ns: int = 0, end_ns: int = 0) -> None:
        """Note one, in the order in which they ended."""
        self.trials.append(trial)
        self.values.append(value)
        self.starts.append(start_ns)
        self.ends.append(end_ns or now_ns())


class OneByOne:
    """Tries events of one stage, and keeps those that wait."""

    def __init__(
        self,
        context: StageContext,
        call: Call,
        *,
        encoded: bool,
        ended: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        """`ended` is told of each event that was handled, or failed for good."""
        self.room: WaitingRoom[Trial] = WaitingRoom()  # at most MOST_WAITING and one batch
        self._context, self._call, self._encoded = context, call, encoded
        self._ended = ended
        self._failures: StageFailures = context.failures
        self._size = context.stage.batch or 1
        self._group: list[Trial] = []  # at most _size
        self._done = Finished()  # at most _MOST_DONE and one group

    @property
    def pending(self) -> int:
        """Events in its hands."""
        return len(self.room) + len(self._group) + len(self._done)

    @property
    def is_needed(self) -> bool:
        """Whether events have to be looked at one by one."""
        return bool(self.room or self._failures.parking.keys or self._failures.is_open)

    @property
    def takes_no_more(self) -> bool:
        """Whether what waits has to become less first."""
        return len(self.room) >= MOST_WAITING or self._failures.is_held_back

    @property
    def is_done_full(self) -> bool:
        """Whether what has ended should go on its way."""
        return len(self._done) >= _MOST_DONE

    @property
    def is_due(self) -> bool:
        """Whether something waits whose time has come."""
        due = self.room.next_due_ns
        return due is not None and due <= now_ns()

    def next_ns(self) -> int | None:
        """When there is something to do (monotonic); None: nothing waits."""
        return self.room.next_due_ns

    def take(self, trial: Trial) -> None:
        """The next event in order of arrival."""
        if is_nothing(trial.value) and not self.room.holds(trial.lane):
            self._done.add(trial, trial.value)
        elif is_nothing(trial.value):
            self.room.queue(trial.lane, trial)
        elif self._failures.parking.has(trial.lane, trial.index):
            self._done.add(trial, self._failures.bury_parked(trial.index, trial.line))
        elif trial.lane is not None and self.room.holds(trial.lane):
            self.room.queue(trial.lane, trial)
        else:
            self._put_in_group(trial)

    def serve(self, until_ns: int) -> None:
        """Try what is due, for as long as it may take."""
        while (due := self.room.next_due_ns) is not None and due <= now_ns() < until_ns:
            for _, trial in self.room.take_due(now_ns()):
                self._put_in_group(trial)
                if now_ns() >= until_ns or self._failures.is_last:
                    break
            self.complete()
            if self._failures.is_last:
                break

    def complete(self) -> None:
        """Try the group as far as it is filled."""
        if self._group:
            group, self._group = self._group, []
            self._try(group)

    def failed(self, trials: Sequence[Trial], error: BaseException, start_ns: int) -> None:
        """A first attempt failed elsewhere (while the breaker was closed)."""
        begun = self._failures.begin()
        self._judge(trials, error, begun or 0, start_ns, now_ns())

    def _put_in_group(self, trial: Trial) -> None:
        if is_nothing(trial.value):
            self._end(trial, trial.value)
            return
        if trial.alone:
            self._try([trial])
            return
        self._group.append(trial)
        if len(self._group) >= self._size:
            self.complete()

    def _try(self, trials: list[Trial]) -> None:
        begun = self._failures.begin()
        if begun is None:
            self._wait(trials, [self._failures.may_begin_ns()] * len(trials))
            return
        for trial in trials:
            self._make_ready(trial)
        start = now_ns()
        try:
            values = self._call(trials)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._judge(trials, error, begun, start, now_ns())
            return
        end = now_ns()
        self._failures.succeeded(begun)
        for trial, value in zip(trials, values, strict=True):
            self._end(trial, value, start, end)

    def _make_ready(self, trial: Trial) -> None:
        """Have the event as it came, and keep it so where it could not be had again."""
        if trial.attempts:
            context = self._context
            line = trial.line if context.is_first else None
            trial.value = restored(
                trial.value, trial.pristine, context.event_decoder_of(trial.partition), line
            )
        elif self._failures.keeps:
            trial.pristine = snapshot(trial.value)

    def _judge(
        self,
        trials: Sequence[Trial],
        error: BaseException,
        begun: int,
        start_ns: int,
        end_ns: int,
    ) -> None:
        failures = self._failures
        verdict = failures.policy.verdict(error)
        info: ErrorInfo | None = None
        together = len(trials) > 1
        waiting: list[Trial] = []
        due: list[int] = []
        for trial in trials:
            at = failures.judge(trial, verdict, begun, start_ns, together=together)
            if at is None:
                info = info or ErrorInfo.of(failures.explained(error))
                self._end(trial, failures.bury(trial, info), start_ns, end_ns)
            else:
                waiting.append(trial)
                due.append(at)
        if together and due and not any(trial.alone for trial in waiting):
            due = [due[0]] * len(due)  # they are tried together again
        self._wait(waiting, due)

    def _wait(self, trials: Sequence[Trial], due_ns: Sequence[int]) -> None:
        """Those of one lane wait one behind the other."""
        own: set[object] = set()
        for trial, due in zip(trials, due_ns, strict=True):
            if trial.lane is not None and trial.lane in own:
                self.room.queue(trial.lane, trial)
            else:
                own.add(trial.lane)
                self.room.wait(trial.lane, trial, due)

    def _end(self, trial: Trial, value: Value, start_ns: int = 0, end_ns: int = 0) -> None:
        self._done.add(trial, value, start_ns, end_ns)
        if start_ns:
            self._ended(trial)
        lane = trial.lane
        if lane is None or not self.room.holds(lane):
            return
        while (behind := self.room.next_behind(lane)) is not None:
            if is_nothing(behind.value):
                self._done.add(behind, behind.value)
            elif self._failures.parking.has(lane, behind.index):
                self._done.add(behind, self._failures.bury_parked(behind.index, behind.line))
            else:
                self.room.wait(lane, behind, now_ns())
                return

    # --- what is done goes on

    def sent(self) -> list[Batch]:
        """All that came to an end since, measured, as batches of one partition each."""
        if not self._done:
            return []
        done, self._done = self._done, Finished()
        trials = done.trials
        ordered = self._context.order != "none"
        partitions = [trial.partition for trial in trials]
        mixed = any(each != partitions[0] for each in partitions)
        batch = Batch(
            [trial.index for trial in trials],
            list(done.ends),
            [trial.lane for trial in trials] if ordered else None,
            done.values,
            [trial.line for trial in trials],
            partition=partitions[0],
            partitions=partitions if mixed else None,
            encoded=self._encoded and self._context.encodes(),
        )
        self._record(done, ordered)
        return list(by_partition(batch))

    def _record(self, done: Finished, ordered: bool) -> None:
        handled = [place for place, start in enumerate(done.starts) if start]
        if not handled:
            return
        trials = [done.trials[place] for place in handled]
        self._context.meter.record(
            [trial.lane for trial in trials] if ordered else None,
            [trial.index for trial in trials],
            [trial.ready for trial in trials],
            as_ints([done.starts[place] for place in handled]),
            as_ints([done.ends[place] for place in handled]),
        )
