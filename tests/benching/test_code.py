"""Code of a model: judged by what it returns, and harmless whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.benching import cells, code

ADD = {"function": "add", "cases": [[[1, 2], 3], [[-1, 1], 0]]}

# One right answer for each cell, as a model would write it: the cells can be passed.
ANSWERS = {
    "add": """
Here:
```python
def add(a, b):
    return a + b
```
It adds.
""",
    "is-even": """
def is_even(n: int) -> bool:
    return n % 2 == 0
""",
    "reverse-words": """
def reverse_words(text):
    return " ".join(reversed(text.split()))
""",
    "fizzbuzz": """
def fizzbuzz(n):
    words = ["Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0) for i in range(n + 1)]
    return [word or str(i) for i, word in enumerate(words)][1:]
""",
    "count-letters": """
from collections import Counter

def count_letters(text):
    return dict(Counter(c for c in text.lower() if c.isalpha()))
""",
    "merge-sorted": """
import heapq
from typing import List

def merge(a: List[int], b: List[int]) -> List[int]:
    heap = a + b
    heapq.heapify(heap)
    return [heapq.heappop(heap) for _ in range(len(heap))]
""",
    "gcd-recursive": """
def gcd(a, b):
    return a if b == 0 else gcd(b, a % b)
""",
    "roman": """
def roman(n):
    out = ""
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    for v, s in zip(values, "M CM D CD C XC L XL X IX V IV I".split()):
        while n >= v:
            out, n = out + s, n - v
    return out
""",
    "flatten": """
def flatten(items):
    out = []
    for item in items:
        out.extend(flatten(item) if isinstance(item, list) else [item])
    return out
""",
    "balanced": """
def balanced(text):
    stack = []
    pairs = {")": "(", "]": "[", "}": "{"}
    for c in text:
        if c in "([{":
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return not stack
""",
    "second-largest": """
def second_largest(numbers):
    values = sorted(set(numbers))
    return values[-2] if len(values) > 1 else None
""",
    "fix-bug": """
def average(numbers):
    return sum(numbers) / len(numbers) if numbers else 0
""",
}


@pytest.mark.parametrize(
    "cell", [cell for cell in cells.read() if cell.area == "coding"], ids=lambda c: c.name
)
def test_every_cell_can_be_passed(cell: cells.Cell) -> None:
    assert code.judge(cell.expect["code"], ANSWERS[cell.name.partition("/")[2]]) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("def add(a, b):\n    return a - b", "gives -1 instead of 3"),
        ("def add(a, b):\n    raise ValueError", "raises ValueError"),
        ("def sub(a, b):\n    return a", "no function add"),
        ("I would add them.", "no Python"),
        ("def add(a, b):\n    while True: pass", "ended its process"),
        ("def add(a, b):\n    return len([0] * 10**10)", "MemoryError"),
        ("def add(a, b):\n    return add(a, b)", "RecursionError"),
        ("x = 1 / 0\ndef add(a, b):\n    return a + b", "ZeroDivisionError"),
        ("import os\ndef add(a, b):\n    return a + b", "imports os"),
        ("from collections import abc\ndef add(a, b):\n    return a + b", "imports abc of collections"),
        ("def add(a, b):\n    return add.__globals__", "uses .__globals__"),
        ("def add(a, b):\n    return (x for x in [1]).gi_frame", "uses .gi_frame"),
        ("def add(a, b):\n    match a:\n        case object(__class__=c): return c", "uses .__class__"),
        ("def add(a, b):\n    return __builtins__", "uses __builtins__"),
        ("def add(a, b):\n    return open('x', 'w')", "raises NameError"),
        ("def add(a, b):\n    return eval('a + b')", "raises NameError"),
        ("import math\ndef add(a, b):\n    return math.fsum.real.sys", "AttributeError"),
    ],
)
def test_wrong_or_unfit_code_fails_and_says_why(answer: str, why: str) -> None:
    assert why in code.judge(ADD, answer)


def test_a_construct_that_the_question_forbids_fails() -> None:
    wanted = {"function": "gcd", "cases": [[[4, 2], 2]], "without": ["While"]}
    loop = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a"
    assert "While" in code.judge(wanted, loop)


def test_even_code_that_gets_past_the_screen_writes_no_file_and_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's own walls, with the first one taken away: no builtins that reach the system, and limits."""
    monkeypatch.setattr(code, "forbidden", lambda tree: "")
    target = tmp_path / "made"
    escape = (
        "def add(a, b):\n"
        "    for c in (1).__class__.__base__.__subclasses__():\n"
        "        if c.__name__ == 'BuiltinImporter':\n"
        "            os = c.load_module('posix')\n"
        f"            fd = os.open({str(target)!r}, 65)\n"
        "            os.write(fd, b'x')\n"
        "    return a + b\n"
    )
    assert code.judge(ADD, escape) != ""
    assert not target.exists() or target.stat().st_size == 0
    if os.getuid() != 0:  # root may always start processes
        fork = escape.partition("            fd")[0] + "            return os.fork()\n"
        assert code.judge(ADD, fork) != ""
