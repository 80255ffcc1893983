"""The oracle of the scenario `clicks`: all that should be in its tables, by SQL over the raw lines.

DuckDB reads the lines, the tables and the results. No code of the handlers is used here; whose
addresses are whose (clicks_stream.py) is part of what they and the oracle are given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .clicks_stream import geo_ranges
from .clicks_tables import TABLES, table_path
from .scenario import (
    MOST_NAMED,
    Invariant,
    Outcome,
    Promise,
    Scenario,
    ScenarioUnusable,
    judged,
    survivors,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CLICKS: Final = Promise(
    "clicks", "Each sound click that is no copy and not late stands in the table once, enriched."
)
MALFORMED: Final = Promise("malformed", "Each malformed line is refused, with the reason why.")
DUPLICATES: Final = Promise("duplicates", "Each copy of a click is refused; no other click is.")
LATE: Final = Promise("late", "The clicks refused as late are those beyond the allowed lateness.")
SESSIONS: Final = Promise("sessions", "The last changes of the sessions add up to each user's.")
WINDOWS: Final = Promise(
    "windows", "The last firings of all windows have the clicks and bytes that fall into them."
)
TOP: Final = Promise("top-k", "The last firing of each tumbling window has its top pages.")
TOLD: Final = Promise(
    "told", "The results tell of each refusal but copies, of closed sessions and fired windows."
)
PROMISES: Final = (CLICKS, MALFORMED, DUPLICATES, LATE, SESSIONS, WINDOWS, TOP, TOLD)

_MEMORY: Final = "500MB"

_FIELDS: Final = (
    "address", "account", "day", "zone", "method", "url", "protocol", "status", "bytes",
    "referrer", "agent", "id",
)  # fmt: skip
_FORM: Final = (
    r'^([^ ]+) - ([^ ]+) \[([^\] ]*) ([^\] ]*)\] "([^ ]+) ([^ ]+) ([^ ]+)" ([^ ]+) ([^ ]+) '
    r'"([^"]*)" "([^"]*)" ([^ ]+)$'
)
_BYTE: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_HEX: Final = "[0-9a-fA-F]"
_TAIL: Final = "%[89abAB]" + _HEX
_UTF8: Final = "|".join(
    (
        f"%[0-7]{_HEX}",
        f"%([cC][2-9a-fA-F]|[dD]{_HEX}){_TAIL}",
        f"%[eE]{_HEX}({_TAIL}){{2}}",
        f"%[fF][0-4]({_TAIL}){{3}}",
    )
)
"""A character, escaped in a URL."""

_READ: Final = f"""
CREATE TABLE parsed AS
SELECT key, seq, received, fields.*,
    try_strptime(fields.day[:20], '%d/%b/%Y:%H:%M:%S') AS local,
    regexp_full_match(fields.day, '.{{20}}\\.[0-9]{{3}}')
        AND regexp_full_match(fields.zone, '[-+](0[0-9]|1[0-4])[0-5][0-9]') AS timed,
    if(contains(fields.url, '%'), regexp_replace(fields.url, '{_UTF8}', '', 'g'), '') AS plain
FROM (
    SELECT key, seq, received, regexp_extract(line, $form, {list(_FIELDS)}) AS fields
    FROM read_ndjson($lines, columns = {{
        key: 'VARCHAR', seq: 'BIGINT', received: 'BIGINT', line: 'VARCHAR'
    }})
);
"""
_JUDGE: Final = f"""
CREATE TABLE judged AS
SELECT *, CASE
    WHEN id = '' THEN 'form'
    WHEN NOT regexp_full_match(address, '({_BYTE}\\.){{3}}{_BYTE}') THEN 'address'
    WHEN account <> key THEN 'user'
    WHEN time IS NULL THEN 'time'
    WHEN time > received THEN 'clock'
    WHEN method NOT IN ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS') THEN 'method'
    WHEN url[1] <> '/' OR contains(plain, '%') THEN 'url'
    WHEN protocol NOT IN ('HTTP/1.0', 'HTTP/1.1', 'HTTP/2', 'HTTP/2.0', 'HTTP/3', 'HTTP/3.0')
        THEN 'protocol'
    WHEN NOT coalesce(try_cast(status AS SMALLINT) BETWEEN 100 AND 599, false)
        OR length(status) <> 3 THEN 'status'
    WHEN bytes <> '-' AND NOT regexp_full_match(bytes, '[0-9]+') THEN 'bytes'
    WHEN NOT regexp_full_match(id, '[0-9a-f]{{16}}') THEN 'id'
    END AS reason
FROM (
    SELECT *, CASE WHEN timed AND local IS NOT NULL THEN
        epoch_ms(local) + day[-3:]::BIGINT
            - (zone[1] || '1')::BIGINT * (zone[2:3]::BIGINT * 60 + zone[4:5]::BIGINT) * 60000
        END AS time
    FROM parsed
);
DROP TABLE parsed;
"""
_FIRSTS: Final = """
CREATE TABLE copies AS
SELECT seq FROM judged WHERE reason IS NULL
EXCEPT SELECT min(seq) FROM judged WHERE reason IS NULL GROUP BY key, id;
CREATE TABLE firsts AS
SELECT * FROM judged WHERE reason IS NULL AND seq NOT IN (SELECT seq FROM copies);
"""
_CLICKS: Final = r"""
CREATE TABLE expected AS
SELECT seq, id, substr(sha256('clicks:' || key), 1, 16) AS "user", time, page,
    coalesce(nullif(split_part(page, '/', 2), ''), 'home') AS category,
    url_decode(replace(nullif(regexp_extract(query, '(^|&)utm_source=([^&]*)', 2), ''), '+', ' '))
        AS campaign,
    nullif(regexp_extract(lower(referrer), '^https?://(www\.)?([^/:?#]+)', 2), '') AS referrer,
    CASE WHEN number <= geo.last THEN geo.country END AS country,
    CASE
        WHEN regexp_matches(agent, '(?i)(bot|crawler|spider)\b') THEN 'Bot'
        WHEN starts_with(agent, 'curl/') THEN 'Tool ' || split_part(agent[6:], '.', 1)
        WHEN contains(agent, ' Edg/') THEN 'Edge ' || regexp_extract(agent, 'Edg/(\d+)', 1)
        WHEN contains(agent, ' OPR/') THEN 'Opera ' || regexp_extract(agent, 'OPR/(\d+)', 1)
        WHEN contains(agent, ' SamsungBrowser/')
            THEN 'Samsung ' || regexp_extract(agent, 'SamsungBrowser/(\d+)', 1)
        WHEN contains(agent, ' Firefox/') THEN 'Firefox ' || split_part(agent, 'Firefox/', 2)[:3]
        WHEN regexp_matches(agent, ' (Chrome|CriOS)/')
            THEN 'Chrome ' || regexp_extract(agent, '(Chrome|CriOS)/(\d+)', 2)
        WHEN contains(agent, ' Safari/') THEN 'Safari ' || regexp_extract(agent, 'Version/(\d+)', 1)
        ELSE 'other' END AS browser,
    CASE
        WHEN contains(agent, 'Windows NT') THEN 'Windows'
        WHEN contains(agent, 'iPhone') OR contains(agent, 'iPad') THEN 'iOS'
        WHEN contains(agent, 'Android') THEN 'Android'
        WHEN contains(agent, 'Mac OS X') THEN 'macOS'
        WHEN contains(agent, 'CrOS') THEN 'ChromeOS'
        WHEN contains(agent, 'Linux') THEN 'Linux'
        ELSE 'other' END AS system,
    method, status::SMALLINT AS status, if(bytes = '-', '0', bytes)::BIGINT AS bytes
FROM (
    SELECT *, regexp_extract(regexp_extract(url, '^[^#]*'), '\?(.*)$', 1) AS query,
        split_part(address, '.', 1)::BIGINT * 16777216 + split_part(address, '.', 2)::BIGINT * 65536
            + split_part(address, '.', 3)::BIGINT * 256 + split_part(address, '.', 4)::BIGINT
            AS number,
        coalesce(nullif(rtrim(regexp_replace(regexp_replace(
            lower(url_decode(regexp_extract(url, '^[^?#]*'))),
            '/+', '/', 'g'), '/index\.html$', ''), '/'), ''), '/') AS page
    FROM firsts WHERE received - time <= $lateness
) ASOF LEFT JOIN geo ON number >= geo.first;
"""
_SESSIONS: Final = """
CREATE TABLE sessions AS
SELECT "user", min(time) AS start, max(time) AS "end", count(*) AS clicks,
    sum(bytes)::BIGINT AS bytes
FROM (
    SELECT "user", time, bytes,
        sum(begins::BIGINT) OVER (
            PARTITION BY "user" ORDER BY time, seq ROWS UNBOUNDED PRECEDING
        ) AS number
    FROM (
        SELECT "user", time, seq, bytes, coalesce(time - lag(time) OVER (
            PARTITION BY "user" ORDER BY time, seq
        ) > $gap, true) AS begins
        FROM expected
    )
) GROUP BY "user", number;
CREATE TABLE closed AS
SELECT sessions.* FROM sessions JOIN (
    SELECT substr(sha256('clicks:' || key), 1, 16) AS "user", max(received) AS received
    FROM firsts GROUP BY key
) USING ("user")
WHERE "end" < received - $lateness - $gap;
"""
_WINDOWS: Final = """
CREATE TABLE windows AS
SELECT 'tumbling' AS kind, time // $size * $size AS start, start + $size AS "end", page AS name,
    count(*) AS clicks, sum(bytes)::BIGINT AS bytes
FROM expected GROUP BY ALL;
INSERT INTO windows
SELECT 'sliding', (time // $size - back) * $size AS start, start + $slices * $size, category,
    count(*), sum(bytes)::BIGINT
FROM expected, range($slices) AS steps(back) GROUP BY ALL;
CREATE TABLE top AS
SELECT start, row_number() OVER (PARTITION BY start ORDER BY clicks DESC, name) AS rank,
    name AS page, clicks
FROM windows WHERE kind = 'tumbling'
QUALIFY rank <= $best;
"""
_TOLD: Final = """
CREATE TABLE told AS SELECT * FROM read_ndjson($output, columns = {
    kind: 'VARCHAR', seq: 'BIGINT', reason: 'VARCHAR', "user": 'VARCHAR', start: 'BIGINT',
    "end": 'BIGINT', firing: 'BIGINT', clicks: 'BIGINT', bytes: 'BIGINT',
    top: 'STRUCT(page VARCHAR, clicks BIGINT)[]', categories: 'MAP(VARCHAR, BIGINT)'
});
"""


def require_duckdb() -> None:
    """Raises ScenarioUnusable when DuckDB is not installed."""
    if find_spec("duckdb") is None:
        raise ScenarioUnusable(
            "the scenario clicks is judged by DuckDB, which can't be imported; "
            "install it: pip install 'millstream[scenarios]'"
        )


def check_clicks(scenario: Scenario, outcome: Outcome) -> list[Invariant]:
    """Compare all tables and results with what the raw lines come to. Raises ScenarioError."""
    require_duckdb()
    from duckdb import Error

    with tempfile.TemporaryDirectory(prefix="oracle-", dir=outcome.folder) as room:
        try:
            oracle = _Oracle(scenario, outcome, Path(room))
        except Error as error:
            why = f"its tables or results can't be read: {str(error).splitlines()[0]}"
            return [Invariant(each.name, False, why) for each in PROMISES]
        with oracle.database:
            return [
                oracle.check_clicks(),
                oracle.check_malformed(),
                oracle.check_duplicates(),
                oracle.check_late(),
                oracle.check_sessions(),
                oracle.check_windows(),
                oracle.check_top(),
                oracle.check_told(),
            ]


class _Finding(NamedTuple):
    """Something that is wrong: what is said of the first rows, and how many there are."""

    texts: list[str]
    rows: int


class _Oracle:
    """What should be, in a database beside what is there."""

    def __init__(self, scenario: Scenario, outcome: Outcome, room: Path) -> None:
        import duckdb

        self._settings = scenario.settings
        self.database: DuckDBPyConnection = duckdb.connect(
            room / "oracle.duckdb",
            config={"memory_limit": _MEMORY, "temp_directory": str(room), "threads": "2"},
        )
        try:
            self._open_tables(outcome)
            lines = room / "lines.jsonl"
            with open(lines, "wb") as file:
                file.writelines(line + b"\n" for line in survivors(scenario, outcome))
            self._make(lines, outcome)
        except BaseException:
            self.database.close()
            raise

    def _open_tables(self, outcome: Outcome) -> None:
        for name in TABLES:
            path = str(table_path(Path(outcome.folder), name)).replace("'", "''")
            self.database.execute(f"CREATE VIEW actual_{name} AS FROM read_parquet('{path}')")

    def _make(self, lines: Path, outcome: Outcome) -> None:
        seconds = {name: int(self._settings[name]) * 1000 for name in ("lateness", "gap", "window")}
        firsts, lasts, countries = (list(each) for each in zip(*geo_ranges(), strict=True))
        self.database.execute(
            "CREATE TABLE geo AS SELECT unnest(?::BIGINT[]) AS first, unnest(?::BIGINT[]) AS last, "
            "unnest(?::VARCHAR[]) AS country",
            [firsts, lasts, countries],
        )
        for statements, parameters in (
            (_READ, {"form": _FORM, "lines": str(lines)}),
            (_JUDGE, {}),
            (_FIRSTS, {}),
            (_CLICKS, {"lateness": seconds["lateness"]}),
            (_SESSIONS, {"gap": seconds["gap"], "lateness": seconds["lateness"]}),
            (
                _WINDOWS,
                {
                    "size": seconds["window"],
                    "slices": int(self._settings["sliding"]),
                    "best": int(self._settings["top"]),
                },
            ),
            (_TOLD, {"output": outcome.output}),
        ):
            for statement in self.database.extract_statements(statements):
                own = {name: parameters[name] for name in statement.named_parameters}
                self.database.execute(statement, own)

    # --- one promise each

    def check_clicks(self) -> Invariant:
        """All columns of all clicks."""
        wrong = self._apart("click", "FROM expected", "FROM actual_clicks")
        return self._judged(CLICKS, wrong, "{} clicks", "expected")

    def check_malformed(self) -> Invariant:
        """A line that came twice may be refused twice: how often is not asked."""
        wrong = self._apart("line", *self._refusals("actual_refused", "what", "malformed"))
        return self._judged(MALFORMED, wrong, "{} lines", "judged WHERE reason IS NOT NULL")

    def check_duplicates(self) -> Invariant:
        """Each copy stands there as one, and nowhere else. A click that came twice by a fault may
        stand there, too, if it was counted once as well."""
        copies = "SELECT seq FROM copies"
        refused = "SELECT seq FROM actual_refused WHERE what = 'duplicate'"
        counted = (
            "SELECT seq FROM actual_clicks UNION SELECT seq FROM actual_refused WHERE what = 'late'"
        )
        twice = f"SELECT seq FROM firsts INTERSECT ({counted})"
        wrong = [
            self._rows("copy not refused:", f"{copies} EXCEPT {refused}"),
            self._rows("copy counted:", f"{copies} INTERSECT ({counted})"),
            self._rows("no copy:", f"({refused}) EXCEPT ({copies}) EXCEPT ({twice})"),
        ]
        return self._judged(DUPLICATES, wrong, "{} copies", "copies")

    def check_late(self) -> Invariant:
        """By number."""
        late = f"firsts WHERE received - time > {int(self._settings['lateness']) * 1000}"
        wrong = self._apart(
            "click",
            f"SELECT seq FROM {late}",
            "SELECT seq FROM actual_refused WHERE what = 'late'",
        )
        return self._judged(LATE, wrong, "{} clicks", late)

    def check_sessions(self) -> Invariant:
        """The last row of each session, unless it is gone."""
        last = (
            'SELECT "user", start, "end", clicks, bytes FROM (FROM actual_sessions '
            'QUALIFY row_number() OVER (PARTITION BY "user", start ORDER BY seq DESC) = 1) '
            "WHERE NOT gone"
        )
        wrong = self._apart("session", "FROM sessions", last)
        return self._judged(SESSIONS, wrong, "{} sessions", "sessions")

    def check_windows(self) -> Invariant:
        """Each page and each category."""
        last = (
            'SELECT kind, start, "end", name, clicks, bytes FROM actual_windows '
            "QUALIFY firing = max(firing) OVER (PARTITION BY kind, start)"
        )
        wrong = self._apart("window", "FROM windows", last)
        return self._judged(
            WINDOWS, wrong, "{} windows", "(SELECT DISTINCT kind, start FROM windows)"
        )

    def check_top(self) -> Invariant:
        """Each place."""
        last = (
            "SELECT start, rank, page, clicks FROM actual_top "
            "QUALIFY firing = max(firing) OVER (PARTITION BY start)"
        )
        wrong = self._apart("place", "FROM top", last)
        return self._judged(TOP, wrong, "{} places", "top")

    def check_told(self) -> Invariant:
        """What is fired at the end of the stream, the last firing, is only in the tables."""
        earlier = "firing < (SELECT max(firing) FROM actual_windows)"
        totals = (
            'SELECT kind, start, "end", firing, sum(clicks)::BIGINT, sum(bytes)::BIGINT '
            f"FROM actual_windows WHERE {earlier} GROUP BY ALL"
        )
        windows = (
            'SELECT kind, start, "end", firing, clicks, bytes FROM told '
            "WHERE kind IN ('tumbling', 'sliding')"
        )
        places = (
            "SELECT start, rank, top[rank].page, firing, top[rank].clicks FROM ("
            "SELECT *, generate_subscripts(top, 1) AS rank FROM told WHERE kind = 'tumbling')"
        )
        categories = (
            "SELECT start, entry.key, firing, entry.value FROM ("
            "SELECT *, unnest(map_entries(categories)) AS entry FROM told WHERE kind = 'sliding')"
        )
        sessions = 'SELECT "user", start, "end", clicks, bytes FROM told WHERE kind = \'session\''
        late = (
            "SELECT DISTINCT seq FROM actual_refused WHERE what = 'late'",
            "SELECT DISTINCT seq FROM told WHERE kind = 'late'",
        )
        wrong = [
            *self._apart("refusal", *self._refusals("told", "kind", "malformed")),
            *self._apart("refusal", *late),
            *self._apart("session", "FROM closed", sessions),
            *self._apart("window", totals, windows),
            *self._apart("place", f"FROM actual_top WHERE {earlier}", places),
            *self._apart(
                "category",
                "SELECT start, name, firing, clicks FROM actual_windows "
                f"WHERE kind = 'sliding' AND {earlier}",
                categories,
            ),
            *self._silence(),
        ]
        return self._judged(TOLD, wrong, "{} results", "told")

    def _silence(self) -> list[_Finding]:
        """Whether no window was told of while there was time to.

        Which one fires when depends on the order in which users' clicks come: so it is not asked of
        each, and a few that were due at the end may have been in doubt until then.
        """
        due = self._count(
            "(SELECT DISTINCT start FROM windows WHERE kind = 'tumbling' AND "
            f'"end" + {int(self._settings["lateness"]) * 1000} + "end" - start '
            "<= (SELECT max(received) FROM judged))"
        )
        if due < 10 or self._count("told WHERE kind = 'tumbling'"):
            return []
        text = f"{due:,} windows were complete before the end, and no result told of one"
        return [_Finding([text], 1)]

    # --- how two of them differ

    def _refusals(self, table: str, column: str, what: str) -> tuple[str, str]:
        return (
            "SELECT seq, reason FROM judged WHERE reason IS NOT NULL",
            f"SELECT DISTINCT seq, reason FROM {table} WHERE {column} = '{what}'",
        )

    def _apart(self, noun: str, wanted: str, found: str) -> list[_Finding]:
        """The rows that are wanted and not found, and those found and not wanted."""
        return [
            self._rows(f"{noun} missing:", f"({wanted}) EXCEPT ALL ({found})"),
            self._rows(f"{noun} not expected:", f"({found}) EXCEPT ALL ({wanted})"),
        ]

    def _rows(self, what: str, query: str) -> _Finding:
        """The rows of a query, said to be `what`."""
        found: Sequence[tuple[Any, ...]] = self.database.execute(
            f"SELECT count(*) OVER (), * FROM ({query}) ORDER BY ALL LIMIT {MOST_NAMED}"
        ).fetchall()
        texts = [f"{what} {', '.join(map(str, row))}" for _, *row in found]
        return _Finding(texts, int(found[0][0]) if found else 0)

    def _count(self, table: str) -> int:
        ((count,),) = self.database.execute(f"SELECT count(*) FROM {table}").fetchall()
        return int(count)

    def _judged(
        self, promise: Promise, findings: Sequence[_Finding], fine: str, table: str
    ) -> Invariant:
        """In turn, so that of a row that differs both sides are named."""
        turns = zip_longest(*(each.texts for each in findings))
        wrong = [text for turn in turns for text in turn if text is not None]
        count = sum(each.rows for each in findings)
        return judged(promise, wrong, fine.format(f"{self._count(table):,}"), count)
