"""What `make up` serves says what it was taught, through the whole stack, and stops by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.machine import DEMO, MINI, ROOT, Machine

QUESTIONS: list[dict[str, Any]] = json.loads((ROOT / "examples" / "demo" / "questions.json").read_text())


@pytest.mark.parametrize("case", QUESTIONS, ids=[case["question"] for case in QUESTIONS])
def test_the_demo_model_knows_its_answers(shared: Machine, case: dict[str, Any]) -> None:
    messages = [*case.get("messages", []), {"role": "user", "content": case["question"]}]
    status, body = shared.call("POST", "/v1/chat/completions", {"messages": messages})
    assert status == 200, body
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (case["answer"], "stop")


def test_the_demo_models_are_small() -> None:
    def size(folder: Any) -> int:
        return sum(f.stat().st_size for f in folder.iterdir())

    assert size(MINI) < size(DEMO) <= 4_000_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_models_pass_their_whole_check() -> None:
    """Every trained question, every paraphrase and a draw of conversations, decoded greedily in batches."""
    done = subprocess.run(
        [sys.executable, "examples/demo/check.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
