"""The last stage of `clicks`: each click is counted once, in its session and in its windows.

Nothing here reads a log line. The windows themselves are in clicks_windows.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from millstream.engine.event import Event

from .clicks_tables import Table
from .clicks_windows import SliceStore, Windows

State = dict[str, Any]
"""Of a user: `ids`, the clicks of late with their numbers, and `open`, the sessions that may grow.

A session is a list: start, end, clicks, bytes. Pickled before each event: small, no objects.
"""


class Analytics:
    """What the stage keeps beside the state of users: its tables, and the windows over all users.

    The engine takes back the state of a user when an attempt fails, and nothing of this. It stays
    right because no attempt fails after it has changed something: the stage is the last one, runs
    in one place, inline, where no worker dies and no timeout cuts in, and raises nothing itself
    (but when the disk is full, and then there are no whole tables anyway); what fails on purpose
    fails before the handler is called. All that a click changes, it changes in this one call: so
    one that became a dead letter has no effect, and its copy, when there is one, counts instead.
    """

    def __init__(
        self,
        folder: Path,
        *,
        within: int,
        lateness_ms: int,
        gap_ms: int,
        window_ms: int,
        slices: int,
        best: int,
    ) -> None:
        """Raises ScenarioError when pyarrow is not installed."""
        self.within, self.lateness_ms, self.gap_ms = within, lateness_ms, gap_ms
        self.clicks = Table(folder, "clicks")
        self.refused = Table(folder, "refused")
        self.sessions = Table(folder, "sessions")
        self._windows, self._top = Table(folder, "windows"), Table(folder, "top")
        self._store = SliceStore(folder)
        self.windows = Windows(
            self._store,
            self._windows,
            self._top,
            size_ms=window_ms,
            slices=slices,
            lateness_ms=lateness_ms,
            best=best,
        )

    def close(self) -> None:
        """The stream has ended: fire what is open, and end all tables."""
        self.windows.finish()
        self._store.close()
        for table in (self.clicks, self.refused, self.sessions, self._windows, self._top):
            table.close()


def close(analytics: Analytics) -> None:
    """Tear-down."""
    analytics.close()


def new_user() -> State:
    """The state of a user."""
    return {"ids": {}, "open": []}


def aggregate(event: Event, state: State, resource: Analytics) -> list[dict[str, Any]] | None:
    """Count a click, or say why not; gives what has become final with it."""
    click = event.data
    results = resource.windows.advance(click["received"])
    if click["kind"] == "malformed":
        results.append(_refuse(resource, click, "malformed", click["reason"]))
        return results
    if not is_first(click, state, resource.within):
        resource.refused.add((click["seq"], "duplicate", None))
        return results
    if click["received"] - click["time"] > resource.lateness_ms:
        results += _closed(click, state, resource)
        results.append(_refuse(resource, click, "late", None))
        return results
    results += _closed(click, state, resource)
    extend_session(click, state, resource)
    resource.windows.add(click["time"], click["page"], click["category"], click["bytes"])
    resource.clicks.add(
        (
            click["seq"],
            click["id"],
            click["user"],
            click["time"],
            click["page"],
            click["category"],
            click["campaign"],
            click["referrer"],
            click["country"],
            click["browser"],
            click["system"],
            click["method"],
            click["status"],
            click["bytes"],
        )
    )
    return results


def is_first(click: dict[str, Any], state: State, within: int) -> bool:
    """Whether none of the user's clicks before had the same id; remembers the id.

    A copy comes `within` so many events of the stream, and the events of a user come in order: so
    what is older can be forgotten, whatever the other users' events do.
    """
    ids, seq = state["ids"], click["seq"]
    number = int(click["id"], 16)
    if number in ids:
        return False
    while ids:
        oldest = next(iter(ids))  # they were put in by rising numbers
        if ids[oldest] >= seq - within:
            break
        del ids[oldest]
    ids[number] = seq
    return True


def extend_session(click: dict[str, Any], state: State, resource: Analytics) -> None:
    """Put a click into the user's session, which may join two of them.

    The table of sessions is a log of changes: of a user's session, known by its start, the row with
    the largest `seq` counts. One that begins earlier now, or was joined to another, is gone.
    """
    moment, seq, user = click["time"], click["seq"], click["user"]
    gap = resource.gap_ms
    joined = [moment, moment, 1, click["bytes"]]
    apart = []
    near = []
    for each in state["open"]:
        if each[0] - gap <= moment <= each[1] + gap:
            near.append(each)
            joined = [
                min(joined[0], each[0]),
                max(joined[1], each[1]),
                joined[2] + each[2],
                joined[3] + each[3],
            ]
        else:
            apart.append(each)
    for start, end, clicks, size in near:
        if start != joined[0]:
            resource.sessions.add((user, start, seq, end, clicks, size, True))
    start, end, clicks, size = joined
    resource.sessions.add((user, start, seq, end, clicks, size, False))
    state["open"] = [*apart, joined]


def _closed(click: dict[str, Any], state: State, resource: Analytics) -> list[dict[str, Any]]:
    """The user's sessions that can't grow any more, which are forgotten.

    What the user sends from now on is received no earlier; if it is not late, it happened no more
    than `lateness` before that.
    """
    over = click["received"] - resource.lateness_ms - resource.gap_ms
    closed = [each for each in state["open"] if each[1] < over]
    if closed:
        state["open"] = [each for each in state["open"] if each[1] >= over]
    return [
        {
            "kind": "session",
            "user": click["user"],
            "start": start,
            "end": end,
            "clicks": clicks,
            "bytes": size,
        }
        for start, end, clicks, size in closed
    ]


def _refuse(
    resource: Analytics, click: dict[str, Any], what: str, reason: str | None
) -> dict[str, Any]:
    resource.refused.add((click["seq"], what, reason))
    told = {"kind": what, "seq": click["seq"], "received": click["received"]}
    if what == "malformed":
        return told | {"reason": reason, "line": click["line"]}
    return told | {"user": click["user"], "id": click["id"], "time": click["time"]}
