"""Embeddings and reranking beside chat: a real appliance, the official client, and engines that die."""

from __future__ import annotations

import base64
import itertools
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest

from tests.e2e.machine import Machine
from tests.engine.encoders import folders

HELLO = [{"role": "user", "content": "hello"}]
GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "encoders.json").read_text())


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Chat and rerank are loaded, embeddings come when asked for."""
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(folder)
    spec = machine.spec()
    spec["models"] = {
        "demo": spec["models"]["demo"],
        "embed": {"source": str(folders.minilm()), "role": "embedding", "residency": "on_demand"},
        "rank": {"source": str(folders.xlm_ranker(folder / "rank")), "role": "rerank", "residency": "loaded"},
    }
    try:
        machine.up(spec)
        machine.until(lambda s: s["models"]["rank"]["state"] == "ready")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def client(appliance: Machine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{appliance.port}/v1", api_key="any", max_retries=0
    ) as made:
        yield made


def test_the_first_question_wakes_the_model(appliance: Machine, client: openai.OpenAI) -> None:
    assert appliance.status()["models"]["embed"]["state"] == "paged_out"
    texts = GOLDENS["minilm"]["texts"][:2]
    found = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    wanted = np.array(GOLDENS["minilm"]["vectors"][:2])
    assert np.abs(np.array([one.embedding for one in found.data]) - wanted).max() < 1e-4
    assert [one.index for one in found.data] == [0, 1]
    assert found.model == "embed"
    assert found.usage.prompt_tokens == found.usage.total_tokens > 10
    status = appliance.status()["models"]["embed"]
    assert status["state"] == "ready"
    assert status["context"]["effective"] == 256
    assert {m["id"]: m["role"] for m in appliance.call("GET", "/v1/models")[1]["data"]} == {
        "demo": "chat",
        "embed": "embedding",
        "rank": "rerank",
    }


def test_a_batch_of_hundreds_as_the_client_asks_for_it(client: openai.OpenAI) -> None:
    """Without `encoding_format`, the client asks for base64 and unpacks it."""
    texts = [f"text number {n} of many" for n in range(300)]
    found = client.embeddings.create(model="embed", input=texts)
    assert [one.index for one in found.data] == list(range(300))
    vectors = np.array([one.embedding for one in found.data])
    assert vectors.shape == (300, 384)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert len({tuple(row) for row in vectors.round(6).tolist()}) == 300


def test_both_encodings_are_the_same_numbers(appliance: Machine) -> None:
    body = {"model": "embed", "input": ["a cat", [101, 4937, 102]], "dimensions": 100}
    plain = appliance.call("POST", "/v1/embeddings", body)[1]
    packed = appliance.call("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})[1]
    for one, other in zip(plain["data"], packed["data"], strict=True):
        unpacked = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert unpacked.shape == (100,)
        assert unpacked.tolist() == one["embedding"]
        assert abs(np.linalg.norm(unpacked) - 1) < 1e-5


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("embeddings", {"input": []}, "invalid_request", "input"),
        ("embeddings", {"input": [[]]}, "invalid_request", "input[0]"),
        ("embeddings", {"input": ["a", 1]}, "invalid_request", "input"),
        ("embeddings", {"input": "a", "dimensions": 0}, "invalid_request", "dimensions"),
        ("embeddings", {"input": "a", "dimensions": 385}, "invalid_request", "dimensions"),
        ("embeddings", {"input": "a", "encoding_format": "int8"}, "invalid_request", "encoding_format"),
        ("embeddings", {"input": "a", "input_type": "query"}, "not_supported", "input_type"),
        ("embeddings", {"input": ["a"] * 2049}, "invalid_request", "input"),
        ("embeddings", {"input": ["a", "b " * 300]}, "context_length_exceeded", "input[1]"),
        ("embeddings", {"input": [30_522]}, "invalid_request", "input[0]"),
        ("embeddings", {"input": "a", "model": None}, "invalid_request", "model"),
        ("embeddings", {"input": "a", "model": "demo"}, "invalid_request", "model"),
        ("embeddings", {"input": "a", "model": "rank"}, "invalid_request", "model"),
        ("embeddings", {"input": "a", "model": "nobody"}, "model_not_found", "model"),
        ("rerank", {"query": "", "documents": ["a"]}, "invalid_request", "query"),
        ("rerank", {"query": "a", "documents": []}, "invalid_request", "documents"),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "invalid_request", "top_n"),
        ("rerank", {"query": "a", "documents": [{"id": 1}]}, "not_supported", "documents[0].id"),
        ("rerank", {"query": "a", "documents": ["b"], "instruction": "c"}, "not_supported", "instruction"),
        ("rerank", {"query": "a", "documents": ["b"], "model": "embed"}, "invalid_request", "model"),
        ("chat/completions", {"messages": HELLO, "model": "embed"}, "invalid_request", "model"),
        ("completions", {"prompt": "a", "model": "rank"}, "invalid_request", "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    path: str, body: dict[str, Any], code: str, param: str, appliance: Machine
) -> None:
    model = "embed" if path == "embeddings" else "rank"
    status, answer = appliance.call("POST", f"/v1/{path}", {"model": model, **body})
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param), answer
    assert status == (404 if code == "model_not_found" else 400)


def test_truncation_happens_where_it_is_asked_for(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="embed", input="word " * 400)
    assert raised.value.code == "context_length_exceeded"
    assert "402 tokens" in raised.value.message
    found = client.embeddings.create(model="embed", input="word " * 400, extra_body={"truncate": True})
    assert found.usage.prompt_tokens == 256


def test_documents_come_back_the_best_first(appliance: Machine) -> None:
    body = {"model": "rank", "query": folders.QUERY, "documents": list(folders.TEXTS)}
    answer = appliance.call("POST", "/v1/rerank", body)[1]
    wanted = GOLDENS["rerank"]["xlm-roberta"]
    assert [one["index"] for one in answer["results"]] == sorted(range(5), key=lambda n: -wanted[n])
    for one in answer["results"]:
        assert abs(one["relevance_score"] - wanted[one["index"]]) < 1e-4
        assert "document" not in one
    assert answer["usage"]["total_tokens"] > 30
    mixed = [{"text": text} if n % 2 else text for n, text in enumerate(folders.TEXTS)]
    best = appliance.call(
        "POST", "/v1/rerank", {**body, "documents": mixed, "top_n": 2, "return_documents": True}
    )[1]
    assert [one["index"] for one in best["results"]] == [one["index"] for one in answer["results"][:2]]
    assert all(one["document"] == {"text": folders.TEXTS[one["index"]]} for one in best["results"])


def test_chat_does_not_notice_that_an_embedding_engine_dies(
    appliance: Machine, client: openai.OpenAI
) -> None:
    """Killed three times under load of both kinds: quarantined, and told so; chat answers all along."""
    client.embeddings.create(model="embed", input="wake up")
    chat_pid = appliance.status()["models"]["demo"]["pid"]
    over = threading.Event()
    failures: list[str] = []
    answers = itertools.count()
    done = 0

    def talk() -> None:
        nonlocal done
        while not over.is_set():
            status, body = appliance.ask("Count from one to ten.", stream=False)
            if status != 200 or not body["choices"][0]["message"]["content"]:
                failures.append(str(body))
            done = next(answers)

    def embed() -> None:
        while not over.is_set():
            appliance.call("POST", "/v1/embeddings", {"model": "embed", "input": ["word " * 100] * 20})

    threads = [threading.Thread(target=work) for work in (talk, talk, embed, embed)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            pid = appliance.until(lambda s: s["models"]["embed"]["state"] == "ready")["models"]["embed"][
                "pid"
            ]
            psutil.Process(pid).send_signal(signal.SIGKILL)
            appliance.until(lambda s, pid=pid: s["models"]["embed"]["pid"] != pid)  # type: ignore[misc]
        appliance.until(lambda s: s["models"]["embed"]["state"] == "quarantined")
        before = done
        appliance.until(lambda s: done > before + 1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert appliance.status()["models"]["demo"]["pid"] == chat_pid
    assert appliance.call("GET", "/readyz")[0] == 200
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(model="embed", input="anybody there?")
    assert raised.value.status_code == 503
    assert raised.value.code == "engine_failed"
    assert "quarantined" in raised.value.message
