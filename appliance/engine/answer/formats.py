"""How each family of models writes a tool call.

The names are those of mlx-lm's parsers (`mlx_lm.tool_parsers`), which are chosen by the chat template, and
`llama3` for the bare JSON that mlx-lm has no parser for. A table and nothing else: the readers and the
grammars for `tool_choice` are both made from it, so that what is forced can be read.

All calls of an answer are

    start + call + (separator + call)* + end
    call      = before + NAME + between + ARGUMENTS + after
    ARGUMENTS = one JSON object, where `argument` is None; else pairs joined by `argument.separator`
    pair      = argument.before + KEY + argument.between + VALUE + argument.after
    VALUE     = what the tool's schema types as a string: argument.open + the text as it is + argument.close
                (which the text must not hold; nor `argument.after`), or a JSON string where `open` is None;
                everything else: JSON

`{index}` in `between` is the number of the call in the answer, from 0. Readers accept more: other white
space, another order of keys, and calls without a separator.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """One argument, in formats that do not write them all as one JSON object."""

    before: str
    between: str
    after: str
    separator: str = ""
    open: str | None = ""  # around a string; None: a string is written as in JSON
    close: str | None = ""


@dataclass(frozen=True)
class CallFormat:
    """`start` and `end` are the markers that a reader looks for; end may be empty: until the answer ends."""

    name: str
    start: str
    end: str
    before: str
    between: str
    after: str
    separator: str
    argument: Argument | None = None

    @property
    def json(self) -> bool:
        """The arguments are one JSON object, which can be passed on while it is written."""
        return self.argument is None


def _glm(name: str) -> CallFormat:
    pair = Argument("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>")
    return CallFormat(
        name, "<tool_call>", "</tool_call>", "", "", "\n", "</tool_call>\n<tool_call>", argument=pair
    )


_ALL = (
    CallFormat(
        "json_tools",
        "<tool_call>",
        "</tool_call>",
        '\n{"name": "',
        '", "arguments": ',
        "}\n",
        "</tool_call>\n<tool_call>",
    ),
    CallFormat("llama3", "", "", '{"name": "', '", "parameters": ', "}", "; "),
    # Of its two forms the newer; where the template has no [ARGS], it is MISTRAL_LIST.
    CallFormat("mistral", "[TOOL_CALLS]", "", "", "[ARGS]", "", "[TOOL_CALLS]"),
    CallFormat(
        "kimi_k2",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>functions.",
        ":{index}<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "",
    ),
    CallFormat(  # its arguments may be typed one by one too
        "kimi_k3",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
        '<|open|>call tool="',
        '" index="{index}"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|>",
        "",
    ),
    CallFormat(
        "qwen3_coder",
        "<tool_call>",
        "</tool_call>",
        "\n<function=",
        ">\n",
        "</function>\n",
        "</tool_call>\n<tool_call>",
        argument=Argument("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    _glm("glm47"),
    _glm("laguna"),
    CallFormat(
        "longcat",
        "<longcat_tool_call>",
        "</longcat_tool_call>",
        "",
        "",
        "\n",
        "</longcat_tool_call>\n<longcat_tool_call>",
        argument=Argument(
            "\n<longcat_arg_key>", "</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>"
        ),
    ),
    CallFormat(
        "minimax_m2",
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        '\n<invoke name="',
        '">\n',
        "</invoke>",
        "",
        argument=Argument('<parameter name="', '">', "</parameter>\n"),
    ),
    CallFormat(
        "minicpm5",
        "<function name=",
        "</function>",
        '"',
        '">',
        "",
        "</function><function name=",
        argument=Argument('<param name="', '">', "</param>"),
    ),
    CallFormat(
        "muse_spark",
        "<atem:function_calls>",
        "</atem:function_calls>",
        '\n<atem:invoke name="',
        '">\n',
        "</atem:invoke>\n",
        "",
        argument=Argument('<atem:parameter name="', '">', "</atem:parameter>\n"),
    ),
    CallFormat(
        "gemma4",
        "<|tool_call>",
        "<tool_call|>",
        "call:",
        "{",
        "}",
        "<tool_call|><|tool_call>",
        argument=Argument("", ":", "", ",", '<|"|>', '<|"|>'),
    ),
    CallFormat(
        "function_gemma",
        "<start_function_call>",
        "<end_function_call>",
        "call:",
        "{",
        "}",
        "<end_function_call><start_function_call>",
        argument=Argument("", ":", "", ",", "<escape>", "<escape>"),
    ),
    CallFormat(
        "pythonic",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "[",
        "(",
        ")]",
        "<|tool_call_end|><|tool_call_start|>",
        argument=Argument("", "=", "", ", ", None, None),
    ),
)

FORMATS = {made.name: made for made in _ALL}
NAMES = tuple(sorted(FORMATS))
# The older form of Mistral's, [TOOL_CALLS][{"name": ..., "arguments": ...}, ...], for templates without
# [ARGS]; read under the name `mistral` too.
MISTRAL_LIST = CallFormat("mistral", "[TOOL_CALLS][", "]", '{"name": "', '", "arguments": ', "}", ", ")
