"""Rounds of generation and calls: what the model is told, what the reader sees, and every way to end.

The desk stands for the router, and says what was written down; the skills are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from appliance import wire
from appliance.errors import ApiError
from appliance.skills.loop import PARAGRAPH, Answering, Bounds, Opener, Plan
from appliance.skills.steps import Step, Told
from appliance.supervisor.generation import Delta
from appliance.supervisor.record import Caller
from tests.server.stand import Answer, Desk
from tests.skills.conftest import Workshop, gone, until

pytestmark = pytest.mark.anyio

TOOLS = '''
import time

def double(number: int) -> int:
    """Twice a number"""
    return number * 2

def meet(name: str, other: str) -> str:
    """Wait for somebody"""
    import pathlib
    here = pathlib.Path(__file__).parent
    (here / name).touch()
    end = time.monotonic() + 30
    while not (here / other).exists():
        if time.monotonic() > end:
            return "nobody came"
        time.sleep(0.005)
    return f"met {other}"

def hang() -> str:
    """Hang"""
    import pathlib
    (pathlib.Path(__file__).parent / "hangs").touch()
    time.sleep(1000)
    return ""
'''
MESSAGES = [{"role": "user", "content": "How much is it?"}]


@pytest.fixture
def tools(workshop: Workshop) -> Workshop:
    workshop.write(TOOLS)
    return workshop


def call(name: str, arguments: str, index: int = 0, id: str | None = None) -> Delta:
    part = wire.CallPart(index, id or f"call_{name}{index}", name, arguments)
    return Delta("", 2, None, None, wire.More(calls=[part]))


def end(tokens: int = 3, finish: wire.Finish = "stop") -> Delta:
    return Delta("", tokens, finish)


def say(text: str, tokens: int = 1) -> Delta:
    return Delta(text, tokens)


class Script:
    """Rounds, one list of deltas each; the last one is said again and again."""

    def __init__(self, workshop: Workshop, *rounds: Sequence[Delta]) -> None:
        self.desk = Desk()
        self.desk.answer = lambda number: Answer([*rounds[min(number, len(rounds) - 1)]])
        self.workshop = workshop

    async def open(
        self, skills: Sequence[str], client: Sequence[str] = (), bounds: Bounds | None = None, **fields: Any
    ) -> Answering:
        self.workshop.apply(**{name: {"python": f"tools:{name}", "timeout": 1000.0} for name in skills})
        offers = await self.workshop.skills.offers(skills)
        plan = Plan(self.workshop.skills, offers, frozenset(client), bounds or Bounds())
        submit = wire.Submit(rid=0, messages=MESSAGES, **fields)
        return await Opener(self.desk, plan)(None, submit, caller=Caller(conversation="talk"))

    def heard(self, number: int) -> list[dict[str, Any]]:
        """What the model was told in a round, beyond the question."""
        return list((self.desk.asked[number][1].messages or [])[1:])


async def read(answering: Answering) -> list[Delta]:
    async with answering:
        return [delta async for delta in answering]


def steps(deltas: Sequence[Delta]) -> list[Step]:
    return [step for delta in deltas if isinstance(delta.more, Told) for step in delta.more.steps]


def parts(deltas: Sequence[Delta]) -> list[wire.CallPart]:
    return [part for delta in deltas if delta.more is not None for part in delta.more.calls]


async def test_a_call_is_run_and_its_result_leads_to_the_answer(tools: Workshop) -> None:
    first = [say("Let me see."), call("double", '{"num'), Delta("", 3, None, None, None), end(4)]
    first[2] = Delta("", 3, None, None, wire.More(calls=[wire.CallPart(0, None, None, 'ber": 21}')]))
    script = Script(tools, first, [say("It is 42."), end(7)])
    deltas = await read(await script.open(["double"]))
    running, done = steps(deltas)
    assert running.shown() == {
        "id": "call_double0",
        "skill": "double",
        "name": "double",
        "arguments": '{"number": 21}',
        "status": "running",
    }
    assert (done.outcome, done.result, done.shown()["status"]) == ("ok", "42", "done")
    assert "".join(delta.text for delta in deltas) == f"Let me see.{PARAGRAPH}It is 42."
    assert parts(deltas) == []  # nothing that the client would take for a call of its own
    assert (deltas[-1].finish, deltas[-1].tokens) == ("stop", 4 + 7)
    assert script.heard(1) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "call_double0",
                    "type": "function",
                    "function": {"name": "double", "arguments": '{"number": 21}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_double0", "name": "double", "content": "42"},
    ]
    assert {caller.conversation for caller in script.desk.callers} == {"talk"}


async def test_whole_and_streamed_answers_are_the_same_and_usage_is_the_sum(tools: Workshop) -> None:
    thought = Delta("", 1, None, None, wire.More(reasoning="hm ", reasoning_tokens=1))
    rounds = ([thought, say("a"), call("double", '{"number": 1}'), end()], [thought, say("b"), end(5)])
    deltas = await read(await Script(tools, *rounds).open(["double"]))
    answering = await Script(tools, *rounds).open(["double"])
    async with answering:
        whole = await answering.collect()
    assert whole.text == "".join(delta.text for delta in deltas) == f"a{PARAGRAPH}b"
    assert isinstance(whole.more, Told)
    assert whole.more.reasoning == "hm hm "
    assert whole.more.reasoning_tokens == 2
    (step,) = whole.more.steps  # each call once, as it ended
    assert (step.outcome, step.result) == ("ok", "2")
    assert (whole.tokens, answering.prompt_tokens, answering.cached_tokens) == (8, 10, 4)


async def test_reasoning_goes_back_to_the_model(tools: Workshop) -> None:
    thought = Delta("", 1, None, None, wire.More(reasoning="I double"))
    script = Script(tools, [thought, call("double", '{"number": 1}'), end()], [say("2"), end()])
    await read(await script.open(["double"]))
    assert script.heard(1)[0]["reasoning_content"] == "I double"


async def test_calls_of_one_round_run_side_by_side_and_are_answered_in_their_order(tools: Workshop) -> None:
    first = [
        call("meet", '{"name": "a", "other": "b"}', 0),
        call("meet", '{"name": "b", "other": "a"}', 1),
        call("double", '{"number": 4}', 2),
        end(),
    ]
    script = Script(tools, first, [say("done"), end()])
    deltas = await read(await script.open(["meet", "double"]))
    assert {step.result for step in steps(deltas) if step.outcome} == {"met b", "met a", "8"}
    told = [(message["tool_call_id"], message["content"]) for message in script.heard(1)[1:]]
    assert told == [("call_meet0", "met b"), ("call_meet1", "met a"), ("call_double2", "8")]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("double", "{}", "error (invalid_arguments): number: Missing required argument"),
        ("double", '{"number": "x"}', "error (invalid_arguments): number: Input should be a valid integer"),
        ("double", '{"number": ', "error (invalid_arguments): the arguments are no JSON object"),
        ("double", "[1]", "error (invalid_arguments): the arguments are no JSON object"),
        pytest.param(
            "double", '{"a":' * 3000, "error (invalid_arguments): the arguments are no JSON object", id="deep"
        ),
        ("treble", "{}", "error (invalid_arguments): there is no tool 'treble'; there is: double"),
    ],
)
async def test_what_the_model_did_wrong_is_told_to_it(
    tools: Workshop, name: str, arguments: str, told: str
) -> None:
    script = Script(tools, [call(name, arguments), end()], [say("sorry"), end()])
    deltas = await read(await script.open(["double"]))
    assert deltas[-1].finish == "stop"
    asked, answered = script.heard(1)
    assert answered["content"].startswith(told)
    assert asked["tool_calls"][0]["function"]["arguments"] in ("{}", '{"number": "x"}')


async def test_a_call_of_the_clients_own_ends_the_loop_and_is_handed_over(tools: Workshop) -> None:
    first = [call("double", '{"number": 1}'), end()]
    second = [call("double", "{}", 0), call("open_door", '{"door"', 1)]
    more = wire.More(calls=[wire.CallPart(1, None, None, ": 3}")])
    script = Script(tools, first, [*second, Delta("", 3, None, None, more), end()])
    deltas = await read(await script.open(["double"], ["open_door"]))
    assert [(part.index, part.name, part.arguments) for part in parts(deltas)] == [
        (0, "open_door", '{"door"'),
        (0, None, ": 3}"),
    ]
    last = steps(deltas)[-1]
    assert (last.outcome, last.name) == ("not_run", "double")
    assert last.result == "a tool of the client was called beside it, and the client answers first"
    assert deltas[-1].finish == "stop"  # the server makes tool_calls of it
    assert len(script.desk.asked) == 2


async def test_rounds_have_a_bound_that_is_told(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end()])
    deltas = await read(await script.open(["double"], bounds=Bounds(rounds=3)))
    assert len(script.desk.asked) == 4
    assert [step.outcome for step in steps(deltas) if step.outcome] == ["ok", "ok", "ok", "not_run"]
    assert deltas[-1].finish == "length"
    assert deltas[-1].more is not None
    assert deltas[-1].more.warning == "skills: 3 rounds of calls are the most; the answer ends here"


async def test_time_has_a_bound_that_ends_the_call_that_runs(tools: Workshop) -> None:
    script = Script(tools, [call("hang", "{}"), end()])
    answering = await script.open(["hang"], bounds=Bounds(seconds=0.3))
    deltas = await read(answering)
    assert deltas[-1].finish == "length"
    assert deltas[-1].more is not None
    assert "the time for calls and answers is used up" in str(deltas[-1].more.warning)
    assert tools.calls == [("hang", "cancelled")]
    assert [step.outcome for step in steps(deltas)] == [None, "cancelled"]


async def test_max_tokens_is_for_all_rounds(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end(6)], [say("x"), end(4, "length")])
    deltas = await read(await script.open(["double"], sampling=wire.Sampling(max_tokens=10)))
    assert [submit.sampling.max_tokens for _, submit in script.desk.asked] == [10, 4]
    assert (deltas[-1].finish, deltas[-1].tokens) == ("length", 10)
    used_up = Script(tools, [call("double", '{"number": 1}'), end(10)])
    deltas = await read(await used_up.open(["double"], sampling=wire.Sampling(max_tokens=10)))
    assert len(used_up.desk.asked) == 1
    assert deltas[-1].finish == "length"


async def test_a_forced_call_is_forced_once(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end()], [say("2"), end()])
    await read(await script.open(["double"], tool_choice="required", tool_names=["double"]))
    wanted = [(submit.tool_choice, submit.tool_names) for _, submit in script.desk.asked]
    assert wanted == [("required", ["double"]), ("auto", None)]


async def test_a_call_cut_off_by_the_limit_is_not_run(tools: Workshop) -> None:
    deltas = await read(await Script(tools, [call("double", '{"num'), end(5, "length")]).open(["double"]))
    assert [step.outcome for step in steps(deltas)] == ["not_run"]
    assert deltas[-1].finish == "length"
    assert tools.calls == []


async def test_a_reader_that_leaves_ends_the_call_that_runs(tools: Workshop) -> None:
    script = Script(tools, [call("hang", "{}"), end()])
    answering = await script.open(["hang"])
    reading = asyncio.create_task(read(answering))
    await until((tools.folder / "hangs").exists, "the call runs")
    (pid,) = tools.pids("hang")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert tools.calls == [("hang", "cancelled")]
    await until(lambda: gone(pid), "its process is gone")


async def test_a_cancel_from_beside_ends_the_call_and_the_answer(tools: Workshop) -> None:
    answering = await Script(tools, [call("hang", "{}"), end()]).open(["hang"])
    reading = asyncio.create_task(read(answering))
    await until((tools.folder / "hangs").exists, "the call runs")
    answering.cancel()
    deltas = await reading
    assert deltas[-1].finish == "cancelled"
    assert tools.calls == [("hang", "cancelled")]


async def test_an_error_of_a_later_round_reaches_the_reader(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end()])
    rounds = [Answer([call("double", '{"number": 1}'), end()]), Answer([ApiError("engine_failed", "gone")])]
    script.desk.answer = lambda number: rounds[number]
    with pytest.raises(ApiError, match="gone"):
        await read(await script.open(["double"]))


async def test_results_that_do_not_fit_end_the_answer_and_say_so(tools: Workshop) -> None:
    class Small(Desk):
        async def open(self, model: str | None, submit: wire.Submit, **rest: Any) -> Answer:
            if len(submit.messages or ()) > 1:
                raise ApiError("context_length_exceeded", "600 tokens are over the ceiling of 512")
            return await super().open(model, submit, **rest)

    script = Script(tools)
    script.desk = Small()
    script.desk.answer = lambda _: Answer([say("So:"), call("double", '{"number": 1}'), end()])
    deltas = await read(await script.open(["double"]))
    assert "".join(delta.text for delta in deltas) == "So:"
    assert [step.outcome for step in steps(deltas)] == [None, "ok"]
    assert deltas[-1].finish == "length"
    assert deltas[-1].more is not None
    assert "600 tokens are over the ceiling of 512" in str(deltas[-1].more.warning)


async def test_a_skill_that_is_removed_meanwhile_is_told_to_the_model(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end()], [say("sorry"), end()])
    answering = await script.open(["double"])
    tools.apply()
    await read(answering)
    assert script.heard(1)[1]["content"] == "error (unavailable): there is no skill double any more"


async def test_a_swap_between_rounds_is_survived(tools: Workshop) -> None:
    script = Script(tools, [call("double", '{"number": 1}'), end()], [say("2"), end()])

    class Swapped(Desk):
        async def open(self, model: str | None, submit: wire.Submit, **rest: Any) -> Answer:
            if rest.get("beside") is not None:
                raise ApiError("model_swapping", "its engine is gone", retry_after=1)
            return await super().open(model, submit, **rest)

    desk = Swapped()
    desk.answer = script.desk.answer
    script.desk = desk
    deltas = await read(await script.open(["double"]))
    assert deltas[-1].finish == "stop"
    assert [model for model, _ in desk.asked] == [None, None]
