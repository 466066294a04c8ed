"""POST /v1/completions, and what reaches the router from both endpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance import wire
from tests.server.conftest import Site
from tests.server.stand import Answer, said

pytestmark = pytest.mark.anyio


async def test_an_answer_has_the_public_shape(site: Site) -> None:
    body = (await site.http.post("/v1/completions", json={"prompt": "once"})).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "Hello there", "logprobs": None, "finish_reason": "stop"}]


async def test_several_prompts_become_several_choices_in_order(site: Site) -> None:
    site.desk.answer = lambda i: Answer(said(f"<{i}>"))
    body = {"prompt": [f"p{i}" for i in range(20)], "n": 2}
    reply = (await site.http.post("/v1/completions", json=body)).json()
    assert [choice["index"] for choice in reply["choices"]] == list(range(40))
    assert site.desk.asked[0][1].prompt == "p0"
    assert sorted(str(s.prompt) for _, s in site.desk.asked) == sorted([f"p{i}" for i in range(20)] * 2)
    assert reply["usage"]["prompt_tokens"] == 20 * 5
    assert reply["usage"]["completion_tokens"] == 40 * 2


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [([1, 2, 3], [[1, 2, 3]]), ([[1], [2, 3]], [[1], [2, 3]]), ("x", ["x"]), (["x"], ["x"])],
)
async def test_prompts_may_be_token_ids(site: Site, prompt: Any, rows: list[Any]) -> None:
    assert (await site.http.post("/v1/completions", json={"prompt": prompt})).status_code == 200
    assert [submit.prompt for _, submit in site.desk.asked] == rows


async def test_a_stream_carries_text(site: Site) -> None:
    reply = await site.http.post("/v1/completions", json={"prompt": "x", "stream": True})
    events = [event.removeprefix("data: ") for event in reply.text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello there"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_every_sampling_field_reaches_the_engine(site: Site) -> None:
    sampling: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.2,
        "max_tokens": 17,
    }
    more = {"stop": ["a", "b"], "seed": 9, "logit_bias": {"5": -100, "6": 1.5}, "ignore_eos": True}
    body = {"prompt": "x", "model": "demo", **sampling, **more}
    assert (await site.http.post("/v1/completions", json=body)).status_code == 200
    ((model, submit),) = site.desk.asked
    assert model == "demo"
    assert submit.sampling == wire.Sampling(**sampling)
    assert (submit.stop, submit.seed, submit.ignore_eos) == (["a", "b"], 9, True)
    assert submit.logit_bias == {5: -100.0, 6: 1.5}


async def test_what_is_not_said_stays_unsaid(site: Site) -> None:
    assert (await site.http.post("/v1/completions", json={"prompt": "x"})).status_code == 200
    ((model, submit),) = site.desk.asked
    assert model is None
    assert submit == wire.Submit(rid=0, prompt="x")


async def test_chat_messages_reach_the_template_as_role_and_text(site: Site) -> None:
    body = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "name": "ann",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": ""},
        ],
        "max_completion_tokens": 3,
        "stop": "end",
        "top_k": -1,
        "seed": -1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (await site.http.post("/v1/chat/completions", json=body)).status_code == 200
    ((_, submit),) = site.desk.asked
    assert submit.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab", "name": "ann"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": ""},
    ]
    assert (submit.sampling.max_tokens, submit.sampling.top_k, submit.stop) == (3, 0, ["end"])
    assert submit.seed is not None
    assert 0 <= submit.seed < 2**63
    assert submit.template_kwargs == {"enable_thinking": False}
