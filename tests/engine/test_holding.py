"""What a worker process passes over, and until when."""

from __future__ import annotations

from millstream.engine.event import FieldMapping
from millstream.engine.executors.holding import Holding
from millstream.engine.executors.wire import Start, Work
from millstream.engine.loading import reference_to
from millstream.engine.plan import RunOptions, make_plan
from tests.support import handlers


def holding() -> Holding:
    plan = make_plan(handlers.echo, RunOptions())
    start = Start(
        name="echo",
        handler=reference_to(handlers.echo, "echo"),
        kind="plain",
        batch=None,
        concurrency=1,
        types=None,
        max_outputs=1,
        injected=(),
        setup=None,
        teardown=None,
        state=None,
        mapping=FieldMapping.of().paths,
        path=[],
        order="global",
    )
    return Holding(start, plan.stages[0])


def begin(held: Holding, number: int, seen: int) -> None:
    held.begin(Work(number, 0, seen, lines=b""))


def test_a_lane_is_held_until_the_run_has_seen_all_that_was_passed_over() -> None:
    held = holding()
    begin(held, 1, seen=0)
    held.hold(0, 0, ConnectionError())

    begin(held, 2, seen=0)
    assert held.skips(0)  # the run sent it before it saw the failure
    begin(held, 3, seen=1)
    assert held.skips(0)  # and this before it saw that the one before was passed over
    begin(held, 4, seen=3)
    assert not held.skips(0)


def test_an_event_without_a_lane_is_never_passed_over() -> None:
    held = holding()
    begin(held, 1, seen=0)
    held.hold(0, None, ConnectionError())

    begin(held, 2, seen=0)

    assert not held.skips(None)
