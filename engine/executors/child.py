"""A worker process: it gets work over a socket, runs one stage's handler, and answers.

Started as `python -m millstream.engine.executors.child FD`. It imports what the handler needs and
little else: no numpy, and asyncio only for async handlers.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import sys
import time
from _thread import start_new_thread
from array import array
from typing import TYPE_CHECKING, Any

from ..batch import DEAD, Value, is_nothing
from ..codecs import Bad, Block, CsvDecoder, Decoder, JsonDecoder, describe_bad, make_decoder
from ..dead_letters import ErrorInfo
from ..event import FieldMapping
from ..failure import Policy
from ..loading import HandlerNotFound, Reference, resolve
from ..plan import StagePlan
from ..tracing import traced
from .calling import GC_THRESHOLD, Caller, Resource, compact, hook_failed
from .holding import Holding, limit_memory
from .line_loop import Handled, decoded, handle_lines, is_utf8, now_ns
from .wire import (
    HEADER,
    LEFT_TO_THE_RUN,
    Broken,
    Done,
    End,
    Failed,
    Partition,
    Ready,
    Reply,
    Request,
    Start,
    WireValue,
    Work,
    decode_request,
    encode,
    event_of_line,
    value_from_wire,
    value_to_wire,
)

if TYPE_CHECKING:
    from .work_faults import WorkFaults

_NEVER = 1 << 62
_LAST_WORDS_S = 1.0


class Worker:
    """One stage in this process."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.mapping = FieldMapping(start.mapping)
        self.stage = _stage(start)
        self.caller = Caller(self.stage, self.mapping, by_lane=start.order == "key")
        self.decoders: dict[int, Decoder] = {}
        self.encodes = False
        self.holding = Holding(start, self.stage)
        self._faults = _call_faults(start, self.caller)
        self._async: Any = None
        if self.stage.is_async:
            from .child_async import AsyncCalls

            self._async = AsyncCalls(self.caller, self.holding, self._faults)

    def open(self) -> None:
        """Set up. Raises what the user's set-up raises."""
        if self._async is not None:
            self._async.open()
        else:
            self._resource = Resource(self.stage)
            self.caller.resource = self._resource.open()

    def close(self) -> None:
        """Tear down."""
        if self._async is not None:
            self._async.close()
        else:
            self._resource.close()

    def add(self, partition: Partition) -> None:
        """Learn how a partition's lines are decoded."""
        self.encodes = partition.encodes
        self.decoders[partition.number] = make_decoder(
            self.mapping,
            header=partition.header,
            delimiter=partition.delimiter,
            keys=not partition.header,  # a row looks its key up when it is asked for
            events=True,
            partition=partition.number,
            cloud_events=partition.cloud_events,
        )

    def do(self, work: Work) -> Done:
        """Handle the events of `work`."""
        decoder = self.decoders[work.partition]
        self.holding.begin(work)
        if self._faults is not None:
            self._faults.begin(work)
        try:
            done = self._do(work, decoder)
            return done if self._faults is None else self._faults.told(done)
        finally:
            self.holding.rest()

    def _do(self, work: Work, decoder: Decoder) -> Done:
        plain = self._async is None and not self.stage.batch and not self.stage.state
        if work.lines is not None and plain and isinstance(decoder, JsonDecoder):
            return self._do_lines(work, work.lines, decoder)
        return self._do_values(work, decoder)

    def _do_lines(self, work: Work, data: bytes, decoder: JsonDecoder) -> Done:
        lines = data.split(b"\n")
        text = is_utf8(lines, data)
        skipped: list[int] = []
        held: list[Failed] = []
        if self.holding.is_careful or (self.holding.holds_all and not self.encodes):
            done = Handled()
            done.stamps.append(now_ns())
        else:
            done = handle_lines(
                lines,
                decoder,
                self.caller.call,
                self._odd,
                encode=self.encodes,
                turn_ns=_NEVER,
                holds=self.holding.holds,
                is_utf8=text,
            )
        if len(done.values) < len(lines):
            self._go_on_one_by_one(lines, decoder, done, held, skipped)
        failures = held + [
            Failed(each.place, ErrorInfo.of_bad(each.error), True)
            if isinstance(each.error, Bad)
            else Failed(each.place, ErrorInfo.of(each.error))
            for each in done.failures
        ]
        stamps = array("q", done.stamps).tobytes()
        if self.encodes and _fits_lines(done):
            out, counts = done.packed()
            return Done(work.id, stamps, out=out, counts=counts, failures=failures, skipped=skipped)
        values = self._wire(done.values, failures)
        return Done(work.id, stamps, values=values, failures=failures, skipped=skipped)

    def _go_on_one_by_one(
        self,
        lines: list[bytes],
        decoder: JsonDecoder,
        done: Handled,
        held: list[Failed],
        skipped: list[int],
    ) -> None:
        """Handle the lines that are left, but for those whose lane is held."""
        holding = self.holding
        first = len(done.values)
        for place, event in enumerate(
            decoded(lines[first:] if first else lines, decoder, is_utf8=False), first
        ):
            if isinstance(event, Bad):
                done.fail(event)
            elif holding.skips(lane := holding.lane_of(event)):
                skipped.append(place)
                done.put(DEAD)
            else:
                error = done.held
                done.held = None
                try:
                    if error is not None:  # the attempt that ended the fast way
                        raise error
                    holding.mark(place)
                    if self._faults is not None:
                        self._faults.suffer(place, event)
                    value = self.caller.call(event)
                    if value is not event and value is not None:
                        value = self._odd(value, event)
                    done.put(_lines_of(value) if self.encodes else holding.sendable(value))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    if holding.holds(error):
                        held.append(holding.hold(place, lane, error))
                        done.put(DEAD)
                    else:
                        done.fail(error)
            done.stamps.append(now_ns())

    def _odd(self, result: Any, event: Any) -> Value:
        results: list[Any] = []
        self.caller.collect(result, event, results)
        return compact(results)

    def _wire(self, values: list[Value], failures: list[Failed]) -> list[WireValue]:
        wire: list[WireValue] = []
        for place, value in enumerate(values):
            try:
                wire.append(value_to_wire(value))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                message = f"the result can't be sent on: {error}"
                failures.append(Failed(place, ErrorInfo(type(error).__name__, message)))
                wire.append(value_to_wire(DEAD))
        return wire

    def _do_values(self, work: Work, decoder: Decoder) -> Done:
        failures: list[Failed] = []
        values = self._values(work, decoder, failures)
        lanes = work.lanes or [None] * len(values)
        for key, state in work.states or ():
            if state is None:
                self.caller.states.pop(key, None)
            else:
                self.caller.states[key] = pickle.loads(state)
        starts, ends = array("q"), array("q")
        skipped: list[int] = []
        if self._async is not None:
            out, starts, ends = self._async.handle(values, lanes, failures, skipped)
        elif self.stage.batch:
            out = self._handle_groups(values, lanes, failures, skipped, starts, ends)
        else:
            out = [
                self._handle_one(place, value, lanes, failures, skipped, starts, ends)
                for place, value in enumerate(values)
            ]
        states = None
        if self.stage.state is not None:
            states = self._states(work, values, lanes)
        wire = self._wire(out, failures)
        return Done(
            work.id,
            ends.tobytes(),
            starts=starts.tobytes(),
            values=wire,
            failures=failures,
            skipped=skipped,
            states=states,
            noted=self.holding.noted(),
        )

    def _values(self, work: Work, decoder: Decoder, failures: list[Failed]) -> list[Value]:
        if work.values is not None:
            return [value_from_wire(value, decoder) for value in work.values]
        assert work.lines is not None
        lines = work.lines.split(b"\n")
        if isinstance(decoder, CsvDecoder):
            rows = decoder.decode(Block(len(lines), 0, records=list(lines)))
            if not rows.bad and len(rows.lines) == len(lines):
                return list(rows.events or ())
        values: list[Value] = []
        for place, line in enumerate(lines):
            try:
                str(line, "utf-8")
                values.append(event_of_line(line, decoder))
            except (ValueError, RecursionError) as error:
                bad = ErrorInfo.of_bad(describe_bad(error, line))
                failures.append(Failed(place, bad, True))
                values.append(DEAD)
        return values

    def _handle_one(
        self,
        place: int,
        value: Value,
        lanes: list[Any],
        failures: list[Failed],
        skipped: list[int],
        starts: array[int],
        ends: array[int],
    ) -> Value:
        starts.append(now_ns())
        lane = self.holding.lane(lanes, place)
        if self.holding.skips(lane):
            skipped.append(place)
            value = DEAD
        elif not is_nothing(value):
            self.holding.mark(place)
            key = self.caller.state_key(lanes, place, value)
            try:
                if self._faults is not None:
                    self._faults.suffer(place, value)
                value = self.holding.sendable(self.caller.handle(value, key))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failures.append(self.holding.failed(place, lane, error))
                value = DEAD
            self.holding.note(place, key, self.caller)
        ends.append(now_ns())
        return value

    def _handle_groups(
        self,
        values: list[Value],
        lanes: list[Any],
        failures: list[Failed],
        skipped: list[int],
        starts: array[int],
        ends: array[int],
    ) -> list[Value]:
        size = self.stage.batch or 1
        out = list(values)
        for first in range(0, len(values), size):
            group = range(first, min(first + size, len(values)))
            start = now_ns()
            live = [place for place in group if not is_nothing(values[place])]
            free = self.holding.free(live, lanes, skipped)
            for place in set(live) - set(free):
                out[place] = DEAD
            self._handle_group(free, values, lanes, out, failures)
            end = now_ns()
            starts.extend([start] * len(group))
            ends.extend([end] * len(group))
        return out

    def _handle_group(
        self,
        places: list[int],
        values: list[Value],
        lanes: list[Any],
        out: list[Value],
        failures: list[Failed],
    ) -> None:
        from .groups import flatten, regroup

        if not places:
            return
        self.holding.mark(places[0])
        try:
            events, sizes = flatten([values[p] for p in places])
            if self._faults is not None:
                for place in places:
                    self._faults.suffer(place, values[place])
            result = self.stage.handler(events, **self.caller.kwargs(None))
            spread = self.caller.spread(result, events)
            for place, value in zip(places, regroup(spread, sizes), strict=True):
                out[place] = self.holding.sendable(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failures += self.holding.failed_group(places, lanes, error)
            for place in places:
                out[place] = DEAD

    def _states(
        self, work: Work, values: list[Value], lanes: list[Any]
    ) -> list[tuple[Any, bytes | None]]:
        keys = {
            self.caller.state_key(lanes, place, value)
            for place, value in enumerate(values)
            if not is_nothing(value)
        }
        states = self.caller.states
        return [
            (k, pickle.dumps(states[k]) if k in states else None) for k in keys if k is not None
        ]


def _lines_of(value: Value) -> Value:
    """The output lines of a value."""
    if value is None:
        return None
    return [each.to_line() for each in value] if type(value) is list else value.to_line()


def _fits_lines(done: Handled) -> bool:
    """Whether no output line has a newline in it, as a str result may."""
    for value in done.values if done.odd else ():
        for line in value if type(value) is list else (value,):
            if type(line) is bytes and b"\n" in line:
                return False
    return True


def _stage(start: Start) -> StagePlan:
    def found(reference: Any) -> Any:
        return None if reference is None else resolve(reference)

    stage = StagePlan(
        name=start.name,
        handler=resolve(start.handler),
        kind=start.kind,  # type: ignore[arg-type]
        executor="process",
        workers=1,
        concurrency=start.concurrency,
        batch=start.batch,
        batch_wait_s=0.0,
        timeout_s=start.timeout_s,
        setup=found(start.setup),
        teardown=found(start.teardown),
        state=found(start.state),
        types=start.types,
        max_outputs=start.max_outputs,
        injected=start.injected,
        why="",
        policy=Policy(
            attempts=start.attempts,
            on=None if start.retry_on is None else tuple(map(_kind, start.retry_on)),
            never=tuple(map(_kind, start.retry_never)),
        ),
    )
    return traced(stage)


def _kind(kind: Reference | str) -> Any:
    return kind if isinstance(kind, str) else resolve(kind)


class Link:
    """Whole messages over the socket, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self) -> Request | None:
        """The next message; None when the run has gone."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        body = self._exactly(HEADER.unpack(header)[0])
        return None if body is None else decode_request(body)

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        at = 0
        while at < size:
            count = self._sock.recv_into(view[at:])
            if not count:
                return None
            at += count
        return data

    def send(self, reply: Reply) -> None:
        """Raises OSError when the run has gone."""
        body = encode(reply)
        self._sock.sendall(HEADER.pack(len(body)) + body)


def _call_faults(start: Start, caller: Caller) -> WorkFaults | None:
    if not start.inject:
        return None
    from .work_faults import WorkFaults

    return WorkFaults(start, caller)


def serve(link: Link) -> int:
    """Work until the run says that there is no more; gives the exit code."""
    start = link.receive()
    if not isinstance(start, Start):
        return 1
    sys.path[:] = start.path
    if start.memory is not None:
        limit_memory(start.memory)
    try:
        worker = Worker(start)
    except HandlerNotFound as error:
        link.send(Broken(str(error)))
        return 1
    try:
        worker.open()
    except BaseException as error:  # also that something it waited for was cancelled
        link.send(Broken(hook_failed("set-up", start.name, error)))
        return 1
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    link.send(Ready(os.getpid()))
    try:
        while True:
            request = link.receive()
            if request is None or isinstance(request, End):
                return 0
            if isinstance(request, Partition):
                worker.add(request)
            elif isinstance(request, Work):
                link.send(worker.do(request))
    finally:
        try:
            worker.close()
        except BaseException as error:
            link.send(Broken(hook_failed("tear-down", start.name, error)))


def _end_with_the_run(fd: int) -> None:
    """Wait, in a thread, until the run has gone; no handler goes on for long after it."""
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is told nevertheless
    poll.poll()
    time.sleep(_LAST_WORDS_S)  # between two events the worker sees it itself, and tears down
    os._exit(1)


def _leave_signals_to_the_run() -> None:
    """What ends the run reaches its whole group: the keyboard does that, and service managers do.

    The run decides when to end. The worker was started with these signals blocked. They are not
    ignored, since what a handler starts would inherit that; what it forks is ended by them again.
    """
    for number in LEFT_TO_THE_RUN:
        signal.signal(number, _do_nothing)
    # Blocked meanwhile, none that comes between the fork and its end is lost.
    os.register_at_fork(before=_block, after_in_parent=_let_through, after_in_child=_end_by_signals)
    _let_through()


def _do_nothing(number: int, frame: object) -> None:
    pass


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RUN)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_RUN)


def _end_by_signals() -> None:
    for number in LEFT_TO_THE_RUN:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    _let_through()


def main() -> None:
    """Serve on the socket whose number is the first argument."""
    _leave_signals_to_the_run()
    sock = socket.socket(fileno=int(sys.argv[1]))
    start_new_thread(_end_with_the_run, (sock.fileno(),))
    try:
        code = serve(Link(sock))
    except (BrokenPipeError, ConnectionResetError):
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
