"""Conversations of exact length, from a seed, and one turn of them over HTTP.

The texts are words and numbers whose token counts add up under the bench models' byte-level BPE, so that a
conversation has the length it is asked for, to a few tokens, without encoding it again and again.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from bench import wire
from bench.client import has_text
from bench.models import TOKENIZER
from bench.workload import WORDS

Message = dict[str, str]
Talk = list[Message]
QUESTION, SYSTEM, EXCHANGE = 24, 500, 400  # tokens
AGENT, TASK, RESULT = 2500, 60, (100, 600)  # tokens; the result of a tool: least and most
FRAME = 6  # tokens that the chat template puts around a message
TOOLS = ("read_file", "write_file", "list_folder", "search", "run", "apply_patch", "fetch_url", "git_log",
         "git_diff", "run_tests", "ask_user", "remember")  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """One answer. first_s, last_s: seconds from opening the connection to the first text and to the end.
    prompt, cached: tokens by the answer's usage."""

    first_s: float
    last_s: float
    text: str
    prompt: int
    cached: int


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))


@functools.cache
def _count(piece: str) -> int:
    return len(_tokenizer().encode(piece, add_special_tokens=False).ids)


def text(draw: random.Random, tokens: int) -> str:
    """About `tokens` tokens of words, all different from any other seed's."""
    pieces: list[str] = []
    while tokens > 0:
        piece = f" {draw.choice(WORDS)}" if draw.random() < 0.8 else f" {draw.randrange(1000)}"
        pieces.append(piece)
        tokens -= _count(piece)
    return "".join(pieces)[1:]


def question(draw: random.Random) -> Message:
    return {"role": "user", "content": text(draw, QUESTION)}


def conversation(draw: random.Random, tokens: int) -> Talk:
    """A system prompt, then questions and answers up to `tokens`; the last word is the user's."""
    talk: Talk = [{"role": "system", "content": text(draw, SYSTEM)}]
    left = tokens - SYSTEM - QUESTION - 2 * FRAME
    while left > 0:
        size = max(4, min(EXCHANGE, left) - 2 * FRAME)
        talk.append({"role": "user", "content": text(draw, size // 4)})
        talk.append({"role": "assistant", "content": text(draw, size - size // 4)})
        left -= EXCHANGE
    return [*talk, question(draw)]


def task(draw: random.Random) -> Message:
    return {"role": "user", "content": text(draw, TASK)}


def agent(draw: random.Random) -> Message:
    """An agent's system prompt: its tools' JSON and as much text as makes AGENT tokens."""
    tools = [_tool(draw, name) for name in TOOLS]
    body = "\n".join(json.dumps(tool) for tool in tools)
    return {"role": "system", "content": f"{body}\n{text(draw, AGENT - _count(body))}"}


def billed(system: Message, draw: random.Random) -> Message:
    """As Claude Code sends it: with a line before it that differs from request to request."""
    line = "x-anthropic-billing-header: cc_version=2.1.37.3a3; cc_entrypoint=cli; "
    return {**system, "content": f"{line}cch={draw.randrange(2**20):05x};\n{system['content']}"}


def _tool(draw: random.Random, name: str) -> dict[str, Any]:
    fields = {
        f"{draw.choice(WORDS)}_{n}": {"type": "string", "description": text(draw, 20)} for n in range(2)
    }
    parameters = {"type": "object", "properties": fields, "required": list(fields)}
    return {
        "type": "function",
        "function": {"name": name, "description": text(draw, 30), "parameters": parameters},
    }


def result(draw: random.Random) -> Message:
    """What a tool said. As a user's message: LMX does not serve the role `tool` yet."""
    body = text(draw, draw.randint(*RESULT))
    return {"role": "user", "content": f"<tool_response>\n{body}\n</tool_response>"}


async def ask(port: int, model: str, talk: Talk, tokens: int) -> Turn:
    """One streamed greedy answer of exactly `tokens`. Raises RuntimeError where it is not whole."""
    body = {
        "model": model,
        "messages": talk,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = wire.request("/v1/chat/completions", body)
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(request)
    whole, first = b"", None
    while data := await reader.read(65536):
        whole += data
        if first is None and has_text(whole):
            first = time.perf_counter() - start
    last = time.perf_counter() - start
    writer.close()
    events = [json.loads(line[6:]) for line in whole.split(b"\n") if line.startswith(b"data: {")]
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    if first is None or b"data: [DONE]" not in whole or usage is None:
        raise RuntimeError(f"an answer was not whole: {whole[-400:]!r}")
    if usage["completion_tokens"] != tokens:
        raise RuntimeError(f"asked for {tokens} tokens, got {usage['completion_tokens']}")
    answer = "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())
    )
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Turn(first, last, answer, usage["prompt_tokens"], cached)


def said(talk: Talk, turn: Turn, *, thinks: bool = False) -> Talk:
    """The conversation with what the model answered; of one that thinks, without the first half of it."""
    text = turn.text[len(turn.text) // 2 :] if thinks else turn.text
    return [*talk, {"role": "assistant", "content": text}]
