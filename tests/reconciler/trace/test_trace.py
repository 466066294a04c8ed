"""Traces: what a person may write, what is said about mistakes, and that a recording reads back exactly."""

from __future__ import annotations

from dataclasses import fields
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import names
from reconciler.readings import LEVELS, EngineReading, Reading, Service
from reconciler.trace import Record, TraceError, load, record

GIB = 2**30

sizes = st.integers(0, 2**60)
counts = st.integers(0, 2**40)
seconds = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.one_of(st.none(), seconds)
engines = st.builds(
    EngineReading, id=st.text(), model=st.text(), memory_bytes=sizes, allowed_bytes=sizes,
    priority=st.integers(0, 1000), active=st.booleans(), busy=st.booleans(), leaving=st.booleans(),
)  # fmt: skip
readings = st.builds(
    Reading, at=seconds, budget_bytes=sizes, used_bytes=sizes, other_bytes=sizes, available_bytes=sizes,
    system=st.sampled_from(LEVELS), system_why=st.text(), heat=st.sampled_from((None, *names.HEAT)),
    engines=st.lists(engines, max_size=4, unique_by=lambda engine: engine.id).map(tuple),
)  # fmt: skip
_BY_TYPE = {
    "float": seconds, "float | None": maybe, "int": counts, "str | None": st.one_of(st.none(), st.text()),
}  # fmt: skip
services = st.builds(Service, **{item.name: _BY_TYPE[str(item.type)] for item in fields(Service)})


def problems(text: str, budget: int | None = 16 * GIB) -> list[str]:
    with pytest.raises(TraceError) as caught:
        load(text, "trace", budget)
    return str(caught.value).splitlines()


@settings(deadline=None)
@given(readings, st.dictionaries(st.text(), services, max_size=3))
def test_what_is_recorded_reads_back_exactly(reading: Reading, found: dict[str, Service]) -> None:
    line = record(reading, found)
    assert "\n" not in line
    assert load(line + "\n", "trace").records == (Record(reading, MappingProxyType(found)),)


def test_a_recording_is_one_reading_a_line() -> None:
    first, second = Reading(1.0, 16 * GIB, GIB), Reading(1.25, 16 * GIB, 2 * GIB, heat="heavy")
    text = f"{record(first)}\n\n# a remark\n{record(second, {'chat': Service(1.25, requests=3)})}\n"
    trace = load(text, "trace")
    assert [entry.reading for entry in trace.records] == [first, second]
    assert trace.records[1].services == {"chat": Service(1.25, requests=3)}
    assert load(text.encode(), "trace") == trace


def test_a_line_says_only_what_is_not_the_default() -> None:
    engine = EngineReading("e1", "chat", 5, busy=True)
    assert record(Reading(1.5, 10, 5, engines=(engine,)), {"chat": Service(1.5, queued=2)}) == (
        '{"t":1.5,"budget":10,"used":5,"engines":[{"id":"e1","model":"chat","memory":5,"busy":true}],'
        '"service":{"chat":{"queued":2}}}'
    )


def test_a_last_line_that_was_cut_off_is_left_out_and_said() -> None:
    line = record(Reading(1.0, 16 * GIB, GIB))
    trace = load(f"{line}\n{line[:-4]}", "trace")
    assert trace.cut
    assert len(trace.records) == 1
    assert problems(f"{line[:-4]}\n{line}\n")[0].startswith("trace:1:1: not JSON (")


def test_a_person_writes_sizes_durations_and_how_long_something_lasts() -> None:
    trace = load(
        """\
        about: an afternoon
        budget: 16GiB
        every: 500ms
        readings:
          - {for: 1s, used: 3.2GiB}
          - {used: 4GiB, other: 500MB, system: warning, system_why: pages go out, heat: heavy}
          - t: 1m30s
            engines:
              - {model: chat, memory: 6GiB, allowed: 5GiB, active: true}
              - {model: code, id: code-2, memory: 2GiB, busy: true, priority: 10}
            service: {chat: {ttft_p95_s: 2.5s, tokens_per_s_p50: 20, requests: 40}}
        """,
        "trace",
    )
    assert trace.about == "an afternoon"
    assert [entry.reading for entry in trace.records] == [
        Reading(0.0, 16 * GIB, int(3.2 * GIB)),
        Reading(0.5, 16 * GIB, int(3.2 * GIB)),
        Reading(
            1.0, 16 * GIB, 4 * GIB, 500_000_000, system="warning", system_why="pages go out", heat="heavy"
        ),
        Reading(
            90.0,
            16 * GIB,
            8 * GIB,
            engines=(
                EngineReading("chat", "chat", 6 * GIB, 5 * GIB, active=True),
                EngineReading("code-2", "code", 2 * GIB, priority=10, busy=True),
            ),
        ),
    ]
    assert trace.records[3].services == {
        "chat": Service(90.0, ttft_p95_s=2.5, tokens_per_s_p50=20.0, requests=40)
    }


def test_figures_that_last_go_on_with_the_time() -> None:
    trace = load('{"t": 5, "for": 3, "every": "1500ms", "used": 1, "service": {"chat": {}}}\n', "t", 10)
    assert [entry.reading.at for entry in trace.records] == [5.0, 6.5]
    assert [entry.services["chat"].at for entry in trace.records] == [5.0, 6.5]


def test_the_budget_is_that_of_the_record_then_of_the_file_then_of_the_spec() -> None:
    text = "{}readings: [{{used: 1}}, {{t: 1, used: 1, budget: 3}}]"
    assert [r.reading.budget_bytes for r in load(text.format(""), "t", 9).records] == [9, 3]
    assert [r.reading.budget_bytes for r in load(text.format("budget: 5\n"), "t", 9).records] == [5, 3]
    (told,) = problems(text.format(""), None)
    assert told == (
        "trace:1:12: readings[0]: budget is missing; write it here, once at the top, "
        "or as a size in memory.budget"
    )


SIZE = "expected bytes as a whole number, or a size like 3.2GiB; found"
TIME = "expected seconds as a number, or a duration like 2m30s or 250ms; found"
MISTAKES = {
    "{used: lots}": f"2:12: readings[0].used: {SIZE} the text 'lots'",
    "{used: -1}": f"2:12: readings[0].used: {SIZE} the number -1",
    "{t: 1s}": "2:5: readings[0]: used is missing",
    "{used: 1, t: soon}": f"2:18: readings[0].t: {TIME} the text 'soon'",
    "{used: 1, heat: warm}": (
        "2:21: readings[0].heat: expected one of nominal, moderate, heavy, trapping, sleeping; "
        "found the text 'warm'"
    ),
    "{used: 1, system: bad}": (
        "2:23: readings[0].system: expected one of normal, warning, critical; found the text 'bad'"
    ),
    "{used: 1, engines: {}}": "2:24: readings[0].engines: expected a list of engines; found a map",
    "{engines: [{memory: 1GiB}]}": "2:16: readings[0].engines[0]: model is missing",
    "{engines: [{model: a, memory: 1, active: 1}]}": (
        "2:46: readings[0].engines[0].active: expected true or false; found the number 1"
    ),
    "{engines: [7]}": (
        "2:16: readings[0].engines[0]: expected {model: chat, memory: 6GiB}; found the number 7"
    ),
    "{used: 1, every: 0s}": (
        "2:22: readings[0].every: expected a duration of a millisecond or more, like 250ms; "
        "found the text '0s'"
    ),
    "{used: 1, service: {chat: {requests: 1.5}}}": (
        "2:42: readings[0].service.chat.requests: expected a whole number, 0 or more; found the number 1.5"
    ),
    "{used: 1, service: {chat: 3}}": (
        "2:31: readings[0].service.chat: expected figures like {requests: 40}; found the number 3"
    ),
    "9GiB": "2:5: readings[0]: expected a reading like {t: 0s, used: 9GiB}; found the text '9GiB'",
    "{used: 1, usde: 1}": (
        "2:21: readings[0].usde: unknown key; known are t, budget, used, other, available, system, "
        "system_why, heat, engines, lent (did you mean 'used'?)"
    ),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_is_expected(words: str) -> None:
    assert problems(f"readings:\n  - {words}\n") == [f"trace:{MISTAKES[words]}"]


def test_every_mistake_is_told_not_only_the_first() -> None:
    lines = [message.split(": ")[0] for message in problems(
        "readings:\n" + "".join(f"  - {words}\n" for words in MISTAKES)
    )]  # fmt: skip
    assert lines == [f"trace:{2 + n}:{m.split(':')[1]}" for n, m in enumerate(MISTAKES.values())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "trace:1:1: the file is empty"),
        ("readings: []\n", "trace:1:1: no readings; a line is like "),
        ("readings: [{used: 1}]\nevry: 1s\n", "trace:2:7: evry: unknown key; known are about, budget"),
        ('{"t": NaN, "used": 1}\n', "trace:1:1: not JSON (NaN is no number)"),
        ('{"t": 1e999, "used": 1}\n', "trace:1:1: t: expected seconds as a number"),
        ('# remark\n{"t": 1, "used": 1}\n{"t": 0.5, "used": 1}\n', "trace:3:1: t: 0.5 s is earlier than"),
        ('{"t": 1, "used": 1, "for": "365d", "every": "1ms"}\n', "trace:1:1: for: more than 1,000,000"),
        ('{"used": 1, "engines": [{"model": "a", "memory": 1}, {"model": "a", "memory": 1}]}\n',
         "trace:1:1: engines[1]: engine 'a' is here twice; give each its own id"),
        ("{\"used\": true}\n", "trace:1:1: used: expected bytes"),
        ("readings:\n\t- {used: 1}\n", "trace:2:1: "),
    ],
)  # fmt: skip
def test_files_that_are_no_trace(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(TraceError, match=r"trace:2:1: not UTF-8 text"):
        load(b'{"t": 0, "used": 1}\n\xff\n', "trace", 1)
