"""What is declared is checked against the options before anything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from millstream.engine import Event, Pipeline, on, stage
from millstream.engine.event import FieldMapping
from millstream.engine.pipeline import Breaker, Retry, handler_kind
from millstream.engine.plan import PlanError, RunOptions, describe, make_plan, options_from


def plain(event: Event) -> Event:
    return event


def generator(event: Event) -> Iterator[Event]:
    yield event


async def coroutine(event: Event) -> Event:
    return event


async def async_generator(event: Event) -> AsyncIterator[Event]:
    yield event


class Callable_:
    def __call__(self, event: Event) -> Event:
        return event


class AsyncCallable:
    async def __call__(self, event: Event) -> Event:
        return event


def plan(job: Any, **options: Any) -> Any:
    return make_plan(job, RunOptions(**options), cpus=4)


# --- executors


@pytest.mark.parametrize(
    ("handler", "kind", "executor"),
    [
        (plain, "function", "inline"),
        (generator, "generator", "inline"),
        (coroutine, "coroutine", "coroutine"),
        (async_generator, "async generator", "coroutine"),
        (lambda event: event, "function", "inline"),
        (partial(partial(coroutine)), "coroutine", "coroutine"),
        (Callable_(), "function", "inline"),
        (AsyncCallable(), "coroutine", "coroutine"),
        (Callable_().__call__, "function", "inline"),
        (str, "function", "inline"),
    ],
)
def test_the_executor_follows_the_kind_of_the_handler(
    handler: Callable[..., Any], kind: str, executor: str
) -> None:
    (planned,) = plan(handler).stages

    assert handler_kind(handler) == planned.kind == kind
    assert planned.executor == executor
    assert kind in planned.why


@pytest.mark.parametrize(
    ("declared", "options", "expected"),
    [
        ({}, {"workers": 2}, ("process", 2)),
        ({}, {"workers": 1}, ("inline", 1)),
        ({"workers": 3}, {"workers": 2}, ("process", 3)),
        ({"executor": "process"}, {}, ("process", 4)),
        ({"executor": "inline"}, {"executor": "process"}, ("inline", 1)),
        ({}, {"executor": "process", "workers": 1}, ("process", 1)),
    ],
)
def test_a_stage_wins_over_the_options_and_they_over_the_machine(
    declared: dict[str, Any], options: dict[str, Any], expected: tuple[str, int]
) -> None:
    (planned,) = plan(stage(plain, **declared), **options).stages

    assert (planned.executor, planned.workers) == expected


@pytest.mark.parametrize(
    ("handler", "declared", "options", "expected"),
    [
        (coroutine, {}, {}, 100),
        (coroutine, {}, {"concurrency": 7}, 7),
        (coroutine, {"concurrency": 5}, {"concurrency": 7}, 5),
        (coroutine, {"executor": "process", "concurrency": 5}, {}, 5),
        (plain, {}, {"concurrency": 7}, 1),
    ],
)
def test_concurrency_is_for_what_can_be_awaited(
    handler: Callable[..., Any], declared: dict[str, Any], options: dict[str, Any], expected: int
) -> None:
    (planned,) = plan(stage(handler, **declared), **options).stages

    assert planned.concurrency == expected


def test_stages_of_one_name_are_told_apart() -> None:
    planned = plan([plain, coroutine, plain, stage(plain, name="other")])

    assert [each.name for each in planned.stages] == ["plain-1", "coroutine", "plain-2", "other"]


def test_what_will_run_is_told_with_the_reason() -> None:
    lines = describe(
        plan(Pipeline(plain, stage(coroutine, batch=5), stage(plain, name="p", workers=2)))
    )

    assert lines == [
        "plain: inline (its handler is a plain function)",
        "coroutine: coroutine, up to 100 in flight, batches of 5 (its handler is a coroutine)",
        "p: process, 2 workers (more than one worker was asked for)",
    ]


def test_only_a_process_stage_in_front_decodes() -> None:
    assert plan([stage(plain, executor="process"), plain]).first_stage_decodes
    assert not plan([plain, stage(plain, executor="process")]).first_stage_decodes


def test_the_fields_that_were_named_take_the_place_of_the_usual_ones() -> None:
    mapping = plan(plain, key="user.id").mapping

    assert mapping.paths["key"] == (("user", "id"),)
    assert mapping.paths["time"] == FieldMapping.of().paths["time"]


# --- refusals


def with_too_much(event: Event, config: dict[str, Any]) -> Event:
    return event


def with_default(event: Event, config: int = 1, *more: Any, **rest: Any) -> Event:
    return event


def without_event() -> None:
    return None


def only_by_name(*, event: Event) -> Event:
    return event


def with_state(event: Event, state: dict[str, int]) -> Event:
    return event


def with_both(event: Event, resource: Any, state: Any) -> Event:
    return event


@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        ([], {}, "no stages"),
        (stage(plain, workers=0), {}, "stage 'plain' has 0 workers; give it 1 or more"),
        (stage(coroutine, concurrency=-1), {}, "has -1 concurrency"),
        (stage(plain, batch=0), {}, "has 0 batch"),
        (stage(plain, max_outputs=0), {}, "has 0 max_outputs"),
        (stage(coroutine, timeout=0), {}, "a timeout of 0 s"),
        (stage(plain, timeout=1), {}, "runs inline, where nothing can interrupt it"),
        (plain, {"timeout": "1s"}, "runs inline, where nothing can interrupt it"),
        (plain, {"timeout": "0s"}, "--timeout is '0s'; give it more than nothing"),
        (plain, {"timeout": "soon"}, "--timeout"),
        (stage(plain, retry=3), {}, "a retry with 3; give it a Retry"),  # type: ignore[arg-type]
        (stage(plain, retry=Retry(0)), {}, "0 attempts; give it 1 or more"),
        (stage(plain, retry=Retry(after=1.0)), {}, "after=, which is for"),
        (stage(plain, retry=Retry(first=-1.0)), {}, "first=-1.0"),
        (stage(plain, retry=Retry(factor=0.5)), {}, "factor=0.5; give it 1 or more"),
        (stage(plain, retry=Retry(budget=0.0)), {}, "budget=0.0"),
        (stage(plain, retry=Retry(on=(3,))), {}, "3, which is no error type"),  # type: ignore[arg-type]
        (stage(plain, breaker=Breaker(ratio=2.0)), {}, "ratio=2.0; it is 0 to 1"),
        (stage(plain, breaker=Breaker(probes=0)), {}, "probes=0; give it more"),
        (stage(plain, breaker=Breaker(patience=0)), {}, "patience=0; give it more"),
        (plain, {"attempts": 0}, "--attempts is 0; give it 1 or more"),
        (plain, {"on_error": "stop"}, "it can be continue, park, halt"),
        (plain, {"on_error": "park", "order": "none"}, "needs --order key, not none"),
        (plain, {"backoff": "5s..1s"}, "its ceiling is below its start"),
        (plain, {"backoff": "quick"}, "or as a range: 100ms..30s"),
        (plain, {"max_dead_letters": "-1"}, "give it a number or a share"),
        (plain, {"max_dead_letters": "x%"}, "--max-dead-letters"),
        (plain, {"worker_memory": "big"}, "--worker-memory"),
        (plain, {"drain_timeout": "-1s"}, "--drain-timeout"),
        (plain, {"breaker": "x"}, "--breaker"),
        (stage(plain, executor="thread"), {}, "has the executor 'thread'"),  # type: ignore[arg-type]
        (stage(coroutine, executor="inline"), {}, "which inline can't run"),
        (stage(plain, executor="coroutine"), {}, "make it async def"),
        (plain, {"executor": "coroutine"}, "make it async def"),
        (stage("plain", name="text"), {}, "can't be called: 'plain'"),  # type: ignore[arg-type]
        (with_too_much, {}, "a parameter 'config' that nothing fills"),
        (without_event, {}, "takes no event"),
        (only_by_name, {}, "takes no event"),
        (with_state, {}, "state=dict"),
        (stage(with_state, state=dict), {"order": "none"}, "needs --order key or global"),
        (stage(with_state, state=dict), {"order": "partition"}, "not partition"),
        (stage(plain, batch=2, state=dict), {}, "batched and keeps state"),
        (
            Pipeline(stage(with_state, state=dict), stage(plain, batch=2)),
            {"checkpoint": "c"},
            "stage 'plain' is batched in a pipeline that keeps state",
        ),
        (on("a", plain, batch=2), {}, "routed by type and batched"),
        (stage(generator, batch=2), {}, "no generator"),
        (stage(async_generator, batch=2), {}, "no generator"),
    ],
)
def test_what_can_not_run_is_refused_with_what_to_change(
    job: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError) as refused:
        plan(job, **options)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "sideways"}, "--order is 'sideways'; it can be none, key, partition, global"),
        ({"emit": "never"}, "completion, input"),
        ({"executor": "thread"}, "auto, inline, coroutine, process"),
        ({"format": "xml"}, "auto, jsonl, csv, json, cloudevents"),
        ({"output_format": "json"}, "--output-format is 'json'; it can be auto, jsonl, csv"),
        ({"pace": "walk"}, "none, time"),
        ({"workers": 0}, "--workers is 0; give it 1 or more"),
        ({"concurrency": 0}, "--concurrency is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"rate": 0.0}, "more than 0 events per second"),
        ({"rate": float("nan")}, "more than 0 events per second"),
        ({"speed": -1.0}, "--speed is -1.0"),
        ({"rate": 1.0, "pace": "time"}, "two schedules"),
        ({"delimiter": ""}, "one character"),
        ({"delimiter": "ab"}, "one character"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan(plain, **options)

    assert said in str(refused.value)


def test_what_a_handler_may_take_beside_the_event() -> None:
    planned = plan([stage(with_both, state=dict), with_default, print])

    assert [each.injected for each in planned.stages] == [("resource", "state"), (), ()]


def test_options_come_by_their_names_as_flags() -> None:
    options = options_from({"dead-letter": "d.jsonl", "fail-if": ("read > 1",), "dry-run": True})

    assert (options.dead_letter, options.fail_if, options.dry_run) == (
        "d.jsonl", ("read > 1",), True
    )  # fmt: skip
    with pytest.raises(PlanError, match="dead_letter"):
        options_from({"dead_letter": "d.jsonl"})
    with pytest.raises(PlanError, match="workers"):
        options_from({"workers": "2"})
