"""The rows of the table: each a whole command, its work, its yardstick and the goal of the project.

A command's words may hold {python}, {millstream}, {input}, {output}, {result} and {checkpoint}.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

# What is read: the main file, the two Zipf files of the I/O rows, the log of many keys that is
# audited, the events of Nexmark, one event, or nothing.
Input = Literal["events", "io", "zipf", "log", "nexmark", "one", "none"]
# What is done to each event; rows of the same work and input must write the same events.
Query = Literal["q0", "q1", "q2", "q5"]
Work = (
    Literal["change", "passthrough", "by_type", "spin20", "aio5", "audit", "imports"]
    | Query  # of Nexmark
)

HANDLERS = "tests/benchmarks/handlers.py"
RUN = ("{millstream}", "run")
FILES = ("--output", "{output}", "--quiet", "--result", "{result}")


@dataclass(frozen=True)
class Row:
    """One contender. `stdout` says that the command writes its output there."""

    name: str
    about: str
    command: tuple[str, ...]
    work: Work = "change"
    input: Input = "events"
    against: str = "bare/loop"
    goal: float | None = None
    # Most ratios are yardstick / row, where more is better; this one is row / yardstick.
    inverse: bool = False
    needs: str | None = None
    stdout: bool = False
    repeats: int = 1

    @property
    def group(self) -> str:
        """bare, run, audit, nexmark or peer: the part of the name before the first slash."""
        return self.name.partition("/")[0]

    @property
    def is_a_run(self) -> bool:
        """Whether it is a run of Millstream, which leaves a result."""
        return self.group == "run" or self.name.endswith("/millstream")


def _bare(program: str, about: str, work: Work = "change", input: Input = "events") -> Row:
    command = ("{python}", "-m", "tests.benchmarks.bare", program, "{input}", "{output}")
    name = f"bare/{program}"
    return Row(name, about, command, work, input, against=name)


def _run(
    name: str,
    about: str,
    handler: str,
    words: str,
    *,
    work: Work = "change",
    input: Input = "events",
    against: str = "bare/loop",
    goal: float | None = None,
) -> Row:
    """A row of Millstream; `words` are the options that tell it from the others."""
    command = (*RUN, f"{HANDLERS}:{handler}", "{input}", *FILES, *words.split())
    return Row(f"run/{name}", about, command, work, input, against, goal)


def _watched(executor: str, handler: str, options: str) -> tuple[Row, ...]:
    """A run on a terminal, which shows its one line there, its live view, and is scraped."""
    in_full = ("--live", "its live view drawn"), ("--metrics 0", "its metrics scraped each second")
    whole = f"run/watched/{executor}/one-line"

    def row(flags: str, about: str, goal: float | None = None) -> Row:
        name = f"run/watched/{executor}/{flags.split()[0].strip('-')}" if flags else whole
        files = tuple(word for word in FILES if word != "--quiet")
        run = (*RUN, f"{HANDLERS}:{handler}", "{input}", *files, *options.split(), *flags.split())
        command = ("{python}", "-m", "tests.benchmarks.watched", *run)
        return Row(name, f"{about}, order key", command, against=whole, goal=goal)

    ordinary = row("", f"{executor}, on a terminal, with the one line that is there anyway")
    return ordinary, *(row(flags, f"{executor}, {about}", 0.98) for flags, about in in_full)


def _peer(program: str, about: str, needs: str | None = None) -> Row:
    command = ("{python}", "-m", "tests.benchmarks.peers", program, "{input}", "{output}")
    return Row(f"peer/{program}", about, command, needs=needs)


def _parallel(name: str, about: str, *words: str) -> Row:
    program = ("{python}", "-m", "tests.benchmarks.bare", "loop", "-", "-")
    split = ("--will-cite", "--pipepart", "-a", "{input}", "-j2", "--block", "-1")
    command = ("parallel", *split, *words, *program)
    return Row(f"peer/{name}", about, command, needs="parallel", stdout=True)


def _bytewax(name: str, about: str, module: str, flow: str) -> Row:
    command = ("{python}", "-m", *module.split(), f"tests.benchmarks.bytewax_flow:{flow}()")
    return Row(f"peer/{name}", about, command, needs="bytewax")


BARE = (
    _bare("loop", "orjson.loads, change one field, orjson.dumps, write"),
    replace(
        _bare("measured", "msgspec in place of orjson; stamps, order per key, a histogram"),
        against="bare/loop",
    ),
    _bare("spin20", "the same with 20 µs of computing an event", "spin20"),
    _bare("lanes", "5,000 coroutines share an iterator, 5 ms of waiting an event", "aio5", "io"),
    _bare("hotkey", "the hottest key's 5 ms waits in a row, all else beside it", "aio5", "zipf"),
    _bare("decode", "two fields of each line decoded by msgspec, one by one", "audit", "log"),
    Row(
        "bare/imports",
        "a Python that only imports the libraries of a command line",
        ("{python}", "-c", "import typer, rich, msgspec, uvloop"),
        work="imports",
        input="none",
        against="bare/imports",
        repeats=5,
    ),
)

INLINE = "--executor inline --order"
COROUTINE = "--executor coroutine --concurrency 5000 --order"
PROCESS = "--executor process --workers"
CHECKPOINT = "--checkpoint {checkpoint} --checkpoint-every 1s"
RETRY = "--attempts 5 --retry-on Exception"

MILLSTREAM = (
    _run("inline/key", "inline, order key", "change", f"{INLINE} key", goal=1.0),
    _run("inline/none", "inline, order none", "change", f"{INLINE} none", goal=1.0),
    _run(
        "inline/passthrough",
        "inline, order key, nothing touched",
        "passthrough",
        f"{INLINE} key",
        work="passthrough",
        goal=1.5,
    ),
    _run(
        "inline/by-type",
        "inline, order key, about half kept by event.type",
        "by_type",
        f"{INLINE} key",
        work="by_type",
        goal=1.5,
    ),
    _run("coroutine/key", "never suspends, order key", "achange", f"{COROUTINE} key", goal=0.9),
    _run("coroutine/none", "never suspends, order none", "achange", f"{COROUTINE} none", goal=0.9),
    _run("process-1/none", "1 worker, order none", "change", f"{PROCESS} 1 --order none"),
    _run("process-1/key", "1 worker, order key", "change", f"{PROCESS} 1 --order key"),
    _run(
        "process-2/none", "2 workers, order none", "change", f"{PROCESS} 2 --order none", goal=1.6
    ),
    _run("process-2/key", "2 workers, order key", "change", f"{PROCESS} 2 --order key", goal=1.2),
    _run(
        "process-2/spin20",
        "2 workers, order key, 20 µs of computing an event",
        "spin20",
        f"{PROCESS} 2 --order key",
        work="spin20",
        against="bare/spin20",
        goal=1.8,
    ),
    _run(
        "io/none",
        "5 ms of waiting, 5,000 in flight, order none",
        "aio5",
        f"{COROUTINE} none",
        work="aio5",
        input="io",
        against="bare/lanes",
        goal=0.9,
    ),
    _run(
        "io/key-zipf",
        "5 ms of waiting, 5,000 in flight, order key, Zipf keys",
        "aio5",
        f"{COROUTINE} key",
        work="aio5",
        input="zipf",
        against="bare/hotkey",
        goal=0.9,
    ),
    _run(
        "checkpoint/inline",
        "inline, order key, progress kept every second",
        "change",
        f"{INLINE} key {CHECKPOINT}",
        against="run/inline/key",
        goal=0.95,
    ),
    _run(
        "checkpoint/coroutine",
        "never suspends, order key, progress kept every second",
        "achange",
        f"{COROUTINE} key {CHECKPOINT}",
        against="run/coroutine/key",
        goal=0.95,
    ),
    _run(
        "retry/inline",
        "inline, order key, five attempts asked for and none needed",
        "change",
        f"{INLINE} key {RETRY}",
        against="run/inline/key",
        goal=0.98,
    ),
    _run(
        "retry/coroutine",
        "never suspends, order key, five attempts asked for and none needed",
        "achange",
        f"{COROUTINE} key {RETRY}",
        against="run/coroutine/key",
        goal=0.98,
    ),
    *_watched("inline", "change", f"{INLINE} key"),
    *_watched("coroutine", "achange", f"{COROUTINE} key"),
    Row(
        "run/one-event",
        "one event, start to end (row / yardstick)",
        (*RUN, f"{HANDLERS}:change", "{input}", *FILES),
        input="one",
        against="bare/imports",
        goal=2.5,
        inverse=True,
        repeats=5,
    ),
)


def _audit(name: str, about: str, *words: str) -> Row:
    command = ("{millstream}", "audit", "{input}", "--json", *words)
    return Row(
        f"audit/{name}",
        about,
        command,
        work="audit",
        input="log",
        against="bare/decode",
        goal=0.5,
        stdout=True,
    )


AUDITS = (
    _audit("global", "millstream audit, one sequence", "--sequence", "time"),
    _audit("key", "millstream audit, 100,000 keys, each with its own numbers", "--key", "key"),
    _audit(
        "key-sparse",
        "millstream audit, 100,000 keys, numbers of all events together",
        *("--key", "key", "--sequence", "time"),
    ),
)

PEERS = (
    _peer("pool", "multiprocessing.Pool.imap, 2 processes, chunks of 300"),
    _peer("mpire", "mpire WorkerPool.imap, 2 processes, chunks of 300", "mpire"),
    _bytewax("bytewax-1", "bytewax, 1 worker", "bytewax.run", "one"),
    _bytewax(
        "bytewax-2", "bytewax, 2 processes, half of the file each", "bytewax.testing -p2", "two"
    ),
    _peer("aiostream", "aiostream map, a plain function", "aiostream"),
    Row(
        "peer/aiostream-io",
        "aiostream map, 5 ms of waiting, 5,000 tasks",
        ("{python}", "-m", "tests.benchmarks.peers", "aiostream-io", "{input}", "{output}"),
        work="aio5",
        input="io",
        against="bare/lanes",
        needs="aiostream",
    ),
    _parallel("parallel-k", "GNU parallel, 2 bare loops, output in order", "-k"),
    _parallel("parallel", "GNU parallel, 2 bare loops, output in any order"),
)


def _nexmark(query: Query, about: str) -> tuple[Row, Row]:
    """A query of Nexmark with bytewax, and with Millstream against that."""
    theirs = Row(
        f"nexmark/{query}/bytewax",
        f"{about}: bytewax, 1 worker",
        ("{python}", "-m", "bytewax.run", f"tests.benchmarks.nexmark_peers:{query}()"),
        work=query,
        input="nexmark",
        against=f"nexmark/{query}/bytewax",
        needs="bytewax",
    )
    handlers = f"tests/benchmarks/nexmark_jobs.py:{query}"
    ours = Row(
        f"nexmark/{query}/millstream",
        f"{about}: inline, order key",
        (*RUN, handlers, "{input}", *FILES, *INLINE.split(), "key"),
        work=query,
        input="nexmark",
        against=theirs.name,
        goal=1.0,
    )
    return theirs, ours


NEXMARK = (
    *_nexmark("q0", "bids as they are"),
    *_nexmark("q1", "prices converted"),
    *_nexmark("q2", "bids of some auctions"),
    *_nexmark("q5", "hot items of sliding windows"),
)

ROWS = BARE + MILLSTREAM + AUDITS + NEXMARK + PEERS
