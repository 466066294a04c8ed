"""A conversation, and the text that chat_template.jinja makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

START, END = "<|im_start|>", "<|im_end|>"
THINK, THOUGHT = "<think>", "</think>"

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages in the OpenAI shape, ending with the assistant's, and the tools on offer.

    `thinking` is how the last answer comes about: "" as the model likes, "on" with the block opened by the
    prompt, "off" with an empty block. `cut` is how many characters of the thought are left where it is
    ended from outside, as a thinking budget does; None for all of it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Message, ...] = ()
    thinking: str = ""
    cut: int | None = None
    thought: str = ""  # what would be thought; it counts where the last message carries it

    @property
    def options(self) -> dict[str, Any]:
        """The switches of the chat template."""
        switches: dict[str, dict[str, Any]] = {
            "on": {"reasoning_effort": "medium"},
            "off": {"enable_thinking": False},
        }
        return switches.get(self.thinking, {})


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def rendered(conversation: Conversation) -> list[tuple[str, bool]]:
    """The conversation as chat_template.jinja writes it, in pieces: (text, is it to be learnt)."""
    pieces: list[tuple[str, bool]] = []
    messages = list(conversation.messages)
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    if conversation.tools:
        tools = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in conversation.tools)
        system += ("\n\n" if system else "") + "# Tools\n" + tools
        system += 'To use one, answer <tool_call>{"name": ..., "arguments": ...}</tool_call>'
    if system:
        pieces.append((f"{START}system\n{system}{END}\n", False))
    for message in messages:
        if message["role"] != "assistant":
            pieces.append((f"{START}{message['role']}\n{message['content']}{END}\n", False))
            continue
        opened = thought = ""
        if "reasoning_content" in message:
            opened, thought = f"{THINK}\n", f"{message['reasoning_content']}\n{THOUGHT}\n\n"
        elif message is messages[-1] and conversation.thinking == "off":
            opened = f"{THINK}\n\n{THOUGHT}\n\n"
        if conversation.thinking != "on":  # then the model itself opens the block
            thought, opened = (opened + thought, "") if thought else ("", opened)
        if message is messages[-1] and conversation.cut is not None:
            opened, thought = f"{opened}{message['reasoning_content'][: conversation.cut]}{THOUGHT}", "\n\n"
        pieces += [(f"{START}assistant\n{opened}", False), (f"{thought}{spoken(message)}{END}", True)]
        pieces.append(("\n", False))
    return pieces


def spoken(message: Message) -> str:
    """What an assistant message says: its text, and its calls as chat_template.jinja writes them."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    texts = [
        f'<tool_call>\n{{"name": "{call["name"]}", "arguments": '
        f"{json.dumps(call['arguments'], ensure_ascii=False)}}}\n</tool_call>"
        for call in calls
    ]
    content: str = message["content"]
    return content + "\n".join(texts)
