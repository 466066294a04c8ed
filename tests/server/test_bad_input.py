"""What is wrong with a request is said, with its code and its field, and never with status 500."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from openai.types import completion_create_params as text_create_params
from openai.types.chat import completion_create_params

from appliance.server import schema
from appliance.server.fields import check_common
from appliance.server.parse import parse
from tests.server import raw
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MESSAGES = [{"role": "user", "content": "hi"}]


async def refused(site: Site, path: str, body: Any, code: str, param: str | None, *words: str) -> None:
    reply = await site.http.post(path, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param), error
    assert error["type"] == "invalid_request_error"
    for word in words:
        assert word in error["message"]
    assert site.desk.asked == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("max_tokens", 0, "from 1 to"),
        ("max_tokens", -1, "from 1 to"),
        ("max_tokens", 10**12, "from 1 to"),
        ("max_tokens", 10**40, "from 1 to"),
        ("max_tokens", "5", "a whole number"),
        ("max_tokens", 1.5, "a whole number"),
        ("max_tokens", True, "a whole number"),
        ("max_completion_tokens", 0, "from 1 to"),
        ("temperature", -0.1, "from 0 to 2"),
        ("temperature", 2.1, "from 0 to 2"),
        ("temperature", "hot", "a number"),
        ("temperature", True, "a number"),
        ("top_p", 0, "above 0 to 1"),
        ("top_p", 1.1, "above 0 to 1"),
        ("top_k", -2, "from -1"),
        ("min_p", 2, "from 0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("frequency_penalty", -3, "from -2 to 2"),
        ("n", 0, "from 1 to 8"),
        ("n", 9, "from 1 to 8"),
        ("seed", 2**70, "64 bits"),
        ("seed", 1.5, "a whole number"),
        ("stop", [""], "empty"),
        ("stop", "", "empty"),
        ("stop", ["x"] * 17, "at most 16"),
        ("stop", {"a": 1}, "a string"),
        ("logit_bias", {"-1": 0}, "token id"),
        ("stream", "yes", "true or false"),
        ("stream_options", {}, "stream: true"),
        ("user", 7, "a string"),
        ("model", 7, "a string"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_value_out_of_range_names_its_field_and_the_range(
    site: Site, path: str, field: str, value: Any, words: str
) -> None:
    if path == TEXT and field == "max_completion_tokens":
        pytest.skip("a field of chat only")
    base = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    await refused(site, path, {**base, field: value}, "invalid_request", field, words)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "required"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hi"}, "messages", "a list"),
        ({"messages": [7]}, "messages[0]", "an object"),
        ({"messages": [*MESSAGES, {"content": "x"}]}, "messages[1].role", "required"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "king"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "a string"),
        (
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type",
            "required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "required",
        ),
        ({"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"messages": MESSAGES, "logit_bias": {"5": 101}}, "logit_bias.5", "-100"),
        (
            {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": "no"}},
            "chat_template_kwargs.enable_thinking",
            "true or false",
        ),
    ],
)
async def test_a_wrong_chat_body_names_the_place(site: Site, body: Any, param: str, words: str) -> None:
    await refused(site, CHAT, body, "invalid_request", param, words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("audio", {"voice": "x"}),
        ("modalities", ["audio"]),
        ("prediction", {"type": "content"}),
        ("store", True),
        ("service_tier", "flex"),
        ("web_search_options", {"x": 1}),
        ("verbosity", "low"),
    ],
)
async def test_what_is_not_built_yet_is_refused_by_name(site: Site, field: str, value: Any) -> None:
    await refused(site, CHAT, {"messages": MESSAGES, field: value}, "not_supported", field, field)


@pytest.mark.parametrize(("field", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2)])
async def test_what_completions_do_not_do_is_refused_by_name(site: Site, field: str, value: Any) -> None:
    await refused(site, TEXT, {"prompt": "hi", field: value}, "not_supported", field, field)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature"),
        ({"zzz": 1}, "zzz", "not supported"),
        (
            {"stream": True, "stream_options": {"include_usag": True}},
            "stream_options.include_usag",
            "include_usage",
        ),
        ({"messages": [{"role": "user", "contents": "x"}]}, "messages[0].contents", "did you mean content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "txt": ""}]}]},
            "messages[0].content[0].txt",
            "text",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "only text",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
            "only functions",
        ),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "enable_thinking"),
    ],
)
async def test_an_unknown_field_is_refused_with_a_hint(site: Site, body: Any, param: str, words: str) -> None:
    await refused(site, CHAT, {"messages": MESSAGES, **body}, "not_supported", param, words)


def test_every_field_of_openais_package_is_known_by_name() -> None:
    """Honoured, or refused where it asks for something: null is always fine."""
    sent = {"model", "stream", "messages", "prompt"}
    chat = {**completion_create_params.CompletionCreateParamsBase.__annotations__, "stream": None}
    text = {**text_create_params.CompletionCreateParamsBase.__annotations__, "stream": None}
    for fields, kind, body in (
        (chat, schema.ChatRequest, {"messages": MESSAGES}),
        (text, schema.CompletionRequest, {"prompt": "hi"}),
    ):
        nulls = dict.fromkeys(fields.keys() - sent)
        check_common(parse(json.dumps({**body, **nulls}).encode(), kind))


async def test_defaults_spelt_out_ask_for_nothing(site: Site) -> None:
    body = {
        "messages": [{"role": "assistant", "content": "x", "refusal": None, "tool_calls": []}, *MESSAGES],
        "tools": [],
        "tool_choice": "auto",
        "functions": None,
        "response_format": {"type": "text"},
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "store": False,
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "user": "me",
        "n": 1,
        "stop": None,
        "stream": None,
        "stream_options": None,
        "temperature": 1,
    }
    assert (await site.http.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ([], "from 1 to 128"),
        (["a", ""], "empty"),
        ([[]], "empty"),
        ([1, "a"], "give a string"),
        ([[1], 2], "give a string"),
        (["a", [1]], "give a string"),
        ([-1], "token id"),
        ([2**40], "token id"),
        (["a"] * 129, "from 1 to 128"),
    ],
)
async def test_a_prompt_that_is_none_is_refused(site: Site, prompt: Any, words: str) -> None:
    await refused(site, TEXT, {"prompt": prompt}, "invalid_request", "prompt", words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"messages": [', "not valid JSON"),
        (b"nonsense", "not valid JSON"),
        (b"[]", "expected an object"),
        (b"null", "expected an object"),
        (b'"text"', "expected an object"),
        (b'{"messages": NaN}', "not valid JSON"),
        (b'{"messages": [], "temperature": Infinity}', "not valid JSON"),
        (b'{"user": "\xff\xfe"}', "UTF-8"),
        (b'{"user": "\\ud800"}', "not valid JSON"),
        (b'{"\xc3\x28": 1}', ""),
        (b"\x00", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"tools":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deep"),
        (b'{"tools":' + b'{"a":' * 100_000, ""),
        (b'{"n": 1' + b"0" * 5000 + b"}", "range"),
        (b'{"temperature": 1e999, "messages": []}', "range"),
        (b"{} {}", "not valid JSON"),
        (b'{"messages": [{"role": "' + b"q" * 3_000_000 + b'"}]}', "messages[0].role"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT, "/admin/models/load"])
async def test_a_body_that_is_no_json_is_a_bad_request(
    site: Site, path: str, body: bytes, words: str
) -> None:
    reply = await site.http.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    if path == CHAT:  # elsewhere the same fields are unknown, and that is said first
        assert reply.json()["error"]["code"] == "invalid_request"
        assert words in reply.json()["error"]["message"]


async def test_a_key_given_twice_counts_the_last_time(site: Site) -> None:
    body = b'{"seed": "x", "messages": [{"role": "user", "content": "hi"}], "seed": 3}'
    reply = await site.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin-1"]
)
async def test_only_json_is_taken(site: Site, kind: str) -> None:
    body = json.dumps({"messages": MESSAGES})
    reply = await site.http.post(CHAT, content=body, headers={"content-type": kind} if kind else {})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
    assert "application/json" in reply.json()["error"]["message"]
    assert site.desk.asked == []


async def test_a_compressed_body_is_refused_by_name(site: Site) -> None:
    headers = {"content-encoding": "gzip"}
    reply = await site.http.post(CHAT, json={"messages": MESSAGES}, headers=headers)
    assert reply.json()["error"]["code"] == "not_supported"


async def test_ten_thousand_messages_work(site: Site) -> None:
    messages = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"message {i}"} for i in range(10_000)
    ]
    began = time.monotonic()
    reply = await site.http.post(CHAT, json={"messages": messages})
    assert reply.status_code == 200
    assert time.monotonic() - began < 5
    submitted = site.desk.asked[0][1].messages
    assert submitted is not None
    assert len(submitted) == 10_000


async def test_an_unknown_model_is_not_found(site: Site) -> None:
    reply = await site.http.post(CHAT, json={"model": "gpt-9", "messages": MESSAGES, "stream": True})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"
    assert reply.json()["error"]["param"] == "model"


async def test_unknown_paths_and_methods_have_the_one_error_shape(site: Site) -> None:
    missing = await site.http.get("/v2/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "/status" in missing.json()["error"]["message"]
    wrong = await site.http.get(CHAT)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%zz%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /admin/events?after=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: http://\xff\xfe\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET /admin/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\r\n\r\n",
        b"DELETE /admin/override?model=a&model=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\r\n\r\n",
        POST + b"Content-Encoding: \xff\r\nContent-Length: 0\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1e3\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        POST + "Transfer-Encoding: chunked\r\n\r\n\u0662\r\n{}\r\n0\r\n\r\n".encode(),
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: a\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length : 2\r\n\r\n{}",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: nothing\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    ],
)
async def test_bad_http_is_answered_and_never_with_500(site: Site, data: bytes) -> None:
    async with raw.connect(site.port) as line:
        await line.send(data)
        reply = await line.reply()
    assert 400 <= reply.status < 500
    assert reply.json()["error"]["code"]
    assert reply.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length : 2\r\n\r\n",
    ],
)
async def test_what_two_readers_may_cut_differently_ends_the_connection(site: Site, data: bytes) -> None:
    """Else a proxy's next request, which is another client's, would be answered with this one's rest."""
    async with raw.connect(site.port) as line:
        await line.send(data + raw.get("/healthz"))
        assert (await line.reply()).status == 400
        assert await line.ended() == b""


async def test_a_body_in_chunks_is_read_to_the_letter(site: Site) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    chunks = b"".join(b"1;of=one\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = raw.post("/v1/chat/completions", b"", "Transfer-Encoding: chunked", "Expect: 100-continue")
    async with raw.connect(site.port) as line:
        await line.send(head)
        assert (await line.head())[0] == 100
        for part in (chunks[:3], chunks[3:400], chunks[400:]):
            await line.send(part)
        assert (await line.reply()).status == 200


async def test_a_body_of_33_mib_is_refused_and_the_next_request_served(site: Site) -> None:
    reply = await site.http.post(
        CHAT, content=b"x" * (33 * 1024**2), headers={"content-type": "application/json"}
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert "32MiB" in reply.json()["error"]["message"]
    assert "server.max_body" in reply.json()["error"]["message"]
    assert (await site.http.get("/healthz")).status_code == 200


async def test_a_body_without_a_length_is_held_to_the_same_limit(site: Site) -> None:
    async def parts() -> Any:
        for _ in range(40):
            yield b" " * 1024**2

    reply = await site.http.post(CHAT, content=parts(), headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


async def test_an_upload_without_end_is_cut_off(site: Site) -> None:
    site.board.set(max_body="1KiB")
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, b"", f"Content-Length: {10**12}"))
        reply = await line.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        await line.ended()


async def test_a_client_that_asks_before_sending_too_much_is_spared_the_upload(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, b"", f"Content-Length: {40 * 1024**2}", "Expect: 100-continue"))
        assert (await line.reply()).status == 413
        assert await line.ended() == b""


async def test_a_new_limit_counts_for_the_next_request_on_the_same_connection(site: Site) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 5000}]}).encode()
    async with raw.connect(site.port) as line:
        for limit, status in (("32MiB", 200), ("4KiB", 413)):
            site.board.set(max_body=limit)
            await line.send(raw.post(CHAT, body))
            assert (await line.reply()).status == status


async def test_an_unforeseen_failure_is_a_plain_500_with_the_request_id(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def status() -> dict[str, Any]:
        raise RuntimeError("secret detail")

    site.board.status = status  # type: ignore[method-assign]
    reply = await site.http.get("/status", headers={"x-request-id": "abc-1"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (500, "internal_error")
    assert "secret" not in reply.text
    assert "abc-1" in error["message"]
    assert reply.headers["x-request-id"] == "abc-1"
    assert "secret detail" in caplog.text
