"""Is this answer what the cell asked for? Nothing is judged by taste, and nothing by another model.

Of text (thoughts do not count, white space around it neither):
    says: [...]        each of these is in it, upper and lower case alike; a list inside means any of them
    without: [...]     none of these is in it
    exactly: TEXT      it is this, but for case and a full stop
    matches: REGEX     the whole of it
    words: {least, most}    lines: N    case: lower | upper
Of JSON (the whole answer, or its only ```json block):
    json: VALUE        equal to this; $string, $integer, $number, $boolean and $list stand for any such
Of tools:
    calls: [{name, arguments}]      these calls in any order and no other; [] means none, and some text
Of code:
    code: {function, cases: [[arguments, result], ...], without: [...]}     see code.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CHECKS = frozenset(
    {"says", "without", "exactly", "matches", "words", "lines", "case", "json", "calls", "code"}
)
ANY: dict[str, Callable[[Any], bool]] = {
    "$string": lambda value: isinstance(value, str) and bool(value.strip()),
    "$integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "$number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "$boolean": lambda value: isinstance(value, bool),
    "$list": lambda value: isinstance(value, list) and bool(value),
}


@dataclass(frozen=True)
class Verdict:
    """why: of a failure, what was asked for and what came. cut: it failed, and was cut at its longest."""

    passed: bool
    why: str = ""
    cut: bool = False


def check(expect: Mapping[str, Any]) -> None:
    """Raises ValueError where a cell expects nothing, or something that nobody looks at."""
    if not expect:
        raise ValueError("it expects nothing")
    if unknown := set(expect) - CHECKS:
        raise ValueError(f"no check is called {min(unknown)}")


def judge(expect: Mapping[str, Any], message: Mapping[str, Any]) -> Verdict:
    """message: of an answer, as the API gives it."""
    text = str(message.get("content") or "").strip()
    calls = message.get("tool_calls") or []
    if calls and "calls" not in expect:
        return Verdict(False, f"it called {calls[0]['function']['name']}")
    for name, wanted in expect.items():
        why = _code(wanted, text) if name == "code" else _CHECKS[name](wanted, text, calls)
        if why:
            cut = message.get("finish_reason") == "length"
            return Verdict(False, f"{why}, and the answer was cut at its longest" if cut else why, cut)
    return Verdict(True)


def _says(wanted: list[Any], text: str, calls: list[Any]) -> str:
    for entry in wanted:
        options = entry if isinstance(entry, list) else [entry]
        if not any(str(option).lower() in text.lower() for option in options):
            return f"it does not say {' or '.join(map(str, options))}: {_short(text)}"
    return ""


def _without(wanted: list[str], text: str, calls: list[Any]) -> str:
    found = next((word for word in wanted if word.lower() in text.lower()), None)
    return f"it says {found}: {_short(text)}" if found is not None else ""


def _exactly(wanted: str, text: str, calls: list[Any]) -> str:
    def bare(words: str) -> str:
        return words.strip().rstrip(".!").lower()

    return "" if bare(text) == bare(str(wanted)) else f"not exactly {wanted}: {_short(text)}"


def _matches(wanted: str, text: str, calls: list[Any]) -> str:
    return "" if re.fullmatch(wanted, text, re.DOTALL) else f"not of the form {wanted}: {_short(text)}"


def _words(wanted: Mapping[str, int], text: str, calls: list[Any]) -> str:
    count = len(text.split())
    if wanted.get("least", 1) <= count <= wanted.get("most", count):
        return ""
    return f"{count} words: {_short(text)}"


def _lines(wanted: int, text: str, calls: list[Any]) -> str:
    count = sum(bool(line.strip()) for line in text.splitlines())
    return "" if count == wanted else f"{count} lines instead of {wanted}: {_short(text)}"


def _case(wanted: str, text: str, calls: list[Any]) -> str:
    same = text == (text.lower() if wanted == "lower" else text.upper())
    return "" if same and text else f"not all in {wanted} case: {_short(text)}"


def _json(wanted: Any, text: str, calls: list[Any]) -> str:
    blocks = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    try:
        found = json.loads(blocks[0] if len(blocks) == 1 else text)
    except ValueError:
        return f"no JSON: {_short(text)}"
    return "" if equal(wanted, found) else f"wrong value: {_short(json.dumps(found, ensure_ascii=False))}"


def _calls(wanted: list[Mapping[str, Any]], text: str, calls: list[Any]) -> str:
    if not wanted:
        if calls:
            return f"a call of {calls[0]['function']['name']} where none was needed"
        return "" if text else "neither a call nor an answer"
    left = []
    for call in calls:
        function = call["function"]
        try:
            left.append({"name": function["name"], "arguments": json.loads(function["arguments"])})
        except ValueError:
            return f"arguments that are no JSON: {_short(function['arguments'])}"
    made = _short(json.dumps(left, ensure_ascii=False)) if left else f"no call: {_short(text)}"
    for call in wanted:
        same = next((other for other in left if equal(call, other)), None)
        if same is None:
            return f"no {call['name']} with these arguments; {made}"
        left.remove(same)
    return f"one call too many; {made}" if left else ""


def equal(wanted: Any, found: Any) -> bool:
    """Text but for case and the space around it; 1 and 1.0 are one number, true and 1 are not."""
    if isinstance(wanted, str):
        if wanted in ANY:
            return ANY[wanted](found)
        return isinstance(found, str) and wanted.strip().lower() == found.strip().lower()
    if isinstance(wanted, Mapping):
        return (
            isinstance(found, Mapping)
            and set(wanted) == set(found)
            and all(equal(value, found[key]) for key, value in wanted.items())
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(equal(*pair) for pair in zip(wanted, found, strict=True))
        )
    return isinstance(wanted, bool) is isinstance(found, bool) and bool(wanted == found)


def _code(wanted: Mapping[str, Any], text: str) -> str:
    from appliance.benching import code

    return code.judge(wanted, text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= 80 else f"{line[:77]}...") or "nothing"


_CHECKS: dict[str, Callable[[Any, str, list[Any]], str]] = {
    "says": _says,
    "without": _without,
    "exactly": _exactly,
    "matches": _matches,
    "words": _words,
    "lines": _lines,
    "case": _case,
    "json": _json,
    "calls": _calls,
}
