"""What counts as the same file, the same engine and the same model."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.spec import Model
from tests.reconciler.spec.reading import MINIMAL, load

FILE: dict[str, Any] = {
    "version": 1,
    "active": "one",
    "models": {
        "one": {"source": "./one", "sampling": {"top_k": 3}},
        "two": {"source": "a/b", "aliases": ["x", "y"]},
    },
    "queue": {"depth": 3, "timeout": "5s"},
    "memory": {"budget": "4GiB"},
}


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """The same file with its keys in another order, another layout, comments and blank lines."""

    def shuffled(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: shuffled(tree[key]) for key in draw(st.permutations(list(tree)))}
        return tree

    text = yaml.dump(
        shuffled(FILE),
        sort_keys=False,
        default_flow_style=draw(st.sampled_from([None, False])),
        indent=draw(st.integers(2, 6)),
        width=draw(st.sampled_from([20, 200])),
    )
    comments = draw(
        st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), max_size=20), max_size=3)
    )
    return "".join(f"# {comment}\n\n" for comment in comments) + text


@settings(deadline=None)
@given(spellings())
def test_comments_key_order_and_spacing_do_not_count(text: str) -> None:
    plain = load(yaml.dump(FILE))
    other = load(text)
    assert other.digest == plain.digest
    assert other.spec == plain.spec


def test_every_change_of_meaning_counts() -> None:
    texts = [MINIMAL, MINIMAL + "suspend: true\n", MINIMAL + "suspend: false\n", MINIMAL + "name: a\n"]
    assert len({load(text).digest for text in texts}) == len(texts)


def test_the_content_digest_is_that_of_the_bytes() -> None:
    """`lmx wait --digest` takes what `sha256sum lmx.yaml` prints."""
    assert load(MINIMAL.encode()).content_digest == hashlib.sha256(MINIMAL.encode()).hexdigest()
    assert load(MINIMAL).content_digest != load(MINIMAL + "# x\n").content_digest


NEEDS_AN_ENGINE: list[dict[str, Any]] = [
    {"source": "./other"},
    {"revision": "abcdef1"},
    {"role": "embedding"},
    {"adapter": "./lora"},
    {"draft": {"source": "a/b"}},
    {"kv_bits": 4},
    {"trust_remote_code": True},
    {"template": {"file": "chat.jinja"}},
]
IN_PLACE: list[dict[str, Any]] = [
    {"aliases": ["x"]},
    {"residency": "loaded"},
    {"idle_timeout": "5m"},
    {"min_residency": "5s"},
    {"priority": 3},
    {"context": 4096},
    {"concurrency": 2},
    {"prefill_chunk": 64},
    {"sampling": {"force": True}},
    {"template": {"enable_thinking": False}},
    {"thinking_budget": 3},
    {"tool_parser": "qwen3_coder"},
    {"warmup": ["hi"]},
    {"probe": {"within": "3s"}},
]


def model(**keys: Any) -> Model:
    return Model.model_validate({"source": "./one", **keys})


@pytest.mark.parametrize("keys", NEEDS_AN_ENGINE, ids=str)
def test_what_only_a_new_engine_can_take_up_changes_its_identity(keys: dict[str, Any]) -> None:
    assert model(**keys).digest != model().digest
    assert model(**keys).own_digest != model().own_digest


@pytest.mark.parametrize("keys", IN_PLACE, ids=str)
def test_what_a_running_engine_takes_up_leaves_its_identity(keys: dict[str, Any]) -> None:
    assert model(**keys).digest == model().digest
    assert model(**keys).own_digest != model().own_digest


def test_every_key_of_a_model_is_one_of_the_two() -> None:
    assert {key for keys in NEEDS_AN_ENGINE + IN_PLACE for key in keys} == set(Model.model_fields)


def test_saying_a_default_changes_no_engine() -> None:
    assert model(kv_bits=None, role="chat", idle_timeout="30m").digest == model().digest
    assert model(kv_bits=None, role="chat", idle_timeout="30m").own_digest == model().own_digest
