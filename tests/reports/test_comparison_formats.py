"""What a comparison looks like: on a terminal, in Markdown, in JSON."""

from __future__ import annotations

import io
import json
import re

import jsonschema
import pytest
from markdown_it import MarkdownIt
from msgspec.structs import replace

from millstream.reports.comparison import Comparison, compare
from millstream.reports.comparison_json import SCHEMA_FILE, json_of
from millstream.reports.comparison_markdown import markdown_of
from millstream.reports.comparison_text import lines_of, write_comparison
from millstream.reports.comparison_words import headline
from millstream.reports.gates import parse_gate
from millstream.reports.run_sets import LeftOut
from millstream.reports.work import Difference
from tests.support.run_sets import set_of

SCHEMA = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
GITHUB = MarkdownIt("commonmark").enable("table")

HOSTILE = "<script>alert(1)</script>|[x](javascript:y)`b` \x1b[31m\n# @you https://evil.example"


def around(middle: float) -> list[float]:
    return [middle * (1 + place / 3000) for place in range(-3, 4)]


def slower(*gates: str) -> Comparison:
    """By 12 %; the memory is the same."""
    base = {"throughput": around(100_000), "service": around(10_000), "rss_peak": around(2**20)}
    candidate = {**base, "throughput": around(88_000), "service": around(11_200)}
    return compare(
        set_of(base, "before"), set_of(candidate, "after"), gates=[*map(parse_gate, gates)]
    )


def hostile() -> Comparison:
    """One in which every text of others is."""
    told = slower("service worse by 5%")
    base = replace(
        told.base,
        label=HOSTILE,
        left_out=(LeftOut(HOSTILE, 3, HOSTILE),),
        work={HOSTILE: HOSTILE},
        versions=(HOSTILE,),
    )
    return replace(
        told,
        base=base,
        differences=(Difference(HOSTILE, HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
        gates=tuple(replace(g, gate=replace(g.gate, text=HOSTILE)) for g in told.gates),
    )


def test_the_verdict_comes_first_then_the_gates_then_the_figures() -> None:
    assert lines_of(slower("service worse by 5%", "throughput worse by 20%")) == [
        "slower: throughput −12 %, service +12 %; 7 runs against 7",
        "  service worse by 5%: FAILED, it is worse by 12 % (between 12 % and 12 % worse)",
        "  throughput worse by 20%: no, it is between 12 % and 12 % worse",
        "  figure      base       candidate  difference  interval",
        "  throughput  100,000/s  88,000/s   −12 %       −12 to −12 %    slower",
        "  service     10 µs      11.2 µs    +12 %       +12 to +12 %    slower",
        "  all of these intervals together are at 95 %",
        "  more figures, each at 95 % by itself: one in twenty differs by chance",
        "  rss_peak    1 MiB      1 MiB      0 %         −0.1 to +0.1 %  no difference shown",
        "  ! not all runs have cpu_per_event: not compared by that",
    ]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (1, "too few runs: 1 run against 1, and 5 of each are needed"),
        (7, "no difference shown in service; 7 runs against 7"),
    ],
)
def test_a_headline_without_a_difference(runs: int, said: str) -> None:
    some = set_of({"service": around(10)[:runs]})

    assert headline(compare(some, some)) == said


def test_a_difference_within_the_noise_is_said_to_be_there() -> None:
    comparison = compare(set_of({"service": around(1000)}), set_of({"service": around(1005)}))

    assert headline(comparison) == "within the noise threshold: service; 7 runs against 7"


def test_colours_are_there_only_when_asked_for_and_change_no_word() -> None:
    coloured, plain = io.StringIO(), io.StringIO()
    comparison = slower("service worse by 5%")

    write_comparison(comparison, coloured, color=True)
    write_comparison(comparison, plain, color=False)

    assert "\x1b[1;31mslower" in coloured.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue()) == plain.getvalue()


def test_texts_of_others_command_no_terminal() -> None:
    lines = lines_of(hostile())

    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31m\\n# @you" in line for line in lines)


# --- Markdown


def test_markdown_has_the_verdict_first_and_folds_the_rest() -> None:
    text = markdown_of(slower("service worse by 5%"))

    first, *_ = text.splitlines()
    assert first == "### slower: throughput −12 %, service +12 %; 7 runs against 7"
    assert "- ❌ `--fail-if` <code>service worse by 5%</code>: FAILED, it is worse by 12 %" in text
    assert "| `service` | 10 µs | 11.2 µs | +12 % | +12 to +12 % | **slower** |" in text
    assert text.index("**slower**") < text.index("<details>") < text.index("`rss_peak`")


def test_markdown_renders_as_three_tables_in_order() -> None:
    tokens = GITHUB.parse(markdown_of(slower()))

    assert [token.type for token in tokens].count("table_open") == 3
    cells = [t.content for t in tokens if t.type == "inline"]
    assert cells[0].startswith("slower:")


def test_texts_of_others_make_no_markup() -> None:
    tokens = GITHUB.parse(markdown_of(hostile()))

    children = [child for token in tokens for child in token.children or ()]
    written = {child.content for child in children if child.type == "html_inline"}
    assert written <= {"<code>", "</code>", "<sub>", "</sub>", "<!-- -->"}
    assert not {"link_open", "image"} & {child.type for child in children}
    blocks = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert all(re.fullmatch(r"<details><summary>[\w ,:%]+</summary>|</details>", b) for b in blocks)
    assert [token.type for token in tokens].count("heading_open") == 1
    assert any(
        "<script>alert(1)</script>|[x](javascript:y)`b` \\x1b[31m\\n#"
        in "".join(child.content for child in token.children if child.type != "html_inline")
        for token in tokens
        if token.children
    )


# --- JSON


@pytest.mark.parametrize(
    "comparison",
    [
        slower(),
        slower("service worse by 5%", "service worse by 12%", "rss_peak better by 1MiB"),
        hostile(),
        compare(set_of({"service": [0.0]}), set_of({"service": [1.0]})),
        compare(
            set_of({"service": [0.0]}),
            set_of({"service": [1.0]}),
            gates=[parse_gate("service worse by 5%")],
        ),
    ],
)
def test_json_holds_its_schema(comparison: Comparison) -> None:
    SCHEMA.validate({**json_of(comparison), "exit_code": 0})


def test_json_tells_what_the_comparison_came_to() -> None:
    told = json_of(slower("service worse by 5%", "service worse by 20%"))

    assert (told["schema"], told["verdict"]) == ("millstream.compare/1", "slower")
    assert [(each["name"], each["word"], each["primary"]) for each in told["figures"]] == [
        ("throughput", "slower", True),
        ("service", "slower", True),
        ("rss_peak", "no difference shown", False),
    ]
    service = told["figures"][1]
    assert (service["unit"], service["better"], service["direction"]) == ("ns", "lower", "worse")
    assert service["shift"]["value"] == pytest.approx(1200)
    assert service["percent"]["low"] < 12 < service["percent"]["high"]
    assert [each["held"] for each in told["conditions"]] == [True, False]


def test_the_schema_refuses_what_is_no_comparison() -> None:
    told = json_of(slower())

    for broken in ({**told, "verdict": "perhaps"}, {**told, "schema": "x"}, {**told, "base": {}}):
        assert not SCHEMA.is_valid(broken)
