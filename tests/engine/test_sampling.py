"""What a request asks of the choice of tokens holds, alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core
import pytest

from appliance import wire
from appliance.engine.choice import Choice, choose, merge
from appliance.engine.sampling import Processor, Samplers, greedy
from tests.engine.client import Engine

mx: Any = mlx.core


def test_a_seed_gives_the_same_text_whatever_runs_beside_it(engine: Engine) -> None:
    asked: dict[str, Any] = {"max_tokens": 30, "temperature": 1.5, "ignore_eos": True}
    alone = engine.ask("The quick", seed=7, **asked)
    others = [engine.submit(prompt, max_tokens=50, temperature=1.0) for prompt in ("dog", "fox", "A model")]
    engine.until(lambda: all(other.rows or other.ended for other in others))
    again = [engine.submit("The quick", seed=7, **asked) for _ in range(2)]
    other_seed = engine.submit("The quick", seed=8, **asked)
    engine.finish(*others, *again, other_seed)
    assert [reply.text for reply in again] == [alone.text] * 2
    assert other_seed.text != alone.text


def test_without_a_seed_texts_differ(engine: Engine) -> None:
    replies = [engine.submit("The quick", max_tokens=30, temperature=1.5, ignore_eos=True) for _ in range(4)]
    engine.finish(*replies)
    assert len({reply.text for reply in replies}) == 4


def test_any_integer_is_a_seed(engine: Engine) -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        first, second = (engine.ask("a", max_tokens=8, temperature=2.0, seed=seed) for _ in range(2))
        assert first.text == second.text


def test_top_k_of_one_and_top_p_of_zero_are_greedy(engine: Engine) -> None:
    plain = engine.ask("The quick", max_tokens=20, ignore_eos=True)
    for field in ({"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-6}, {"min_p": 1.0}):
        reply = engine.ask("The quick", max_tokens=20, ignore_eos=True, temperature=1.0, **field)
        assert reply.text == plain.text, field


def test_a_top_k_beyond_the_vocabulary_changes_nothing(engine: Engine) -> None:
    reply = engine.ask("The quick", max_tokens=5, temperature=1.0, top_k=10**6, ignore_eos=True)
    assert reply.finish == "length"


def test_logit_bias_forces_and_forbids_tokens(engine: Engine) -> None:
    forced = engine.ask("The quick", max_tokens=5, logit_bias={67: 1000.0}, ignore_eos=True)
    again = engine.ask("fox", max_tokens=5, logit_bias={67: 1000.0}, ignore_eos=True)
    assert forced.text == again.text
    assert len(set(forced.text)) == 1


def test_penalties_change_one_row_and_not_its_neighbours(engine: Engine) -> None:
    plain = engine.ask("dog dog", max_tokens=40, ignore_eos=True)
    beside = engine.submit("dog dog", max_tokens=40, ignore_eos=True)
    penalised = [
        engine.submit("dog dog", max_tokens=40, ignore_eos=True, **field)
        for field in (
            {"presence_penalty": 50.0},
            {"frequency_penalty": 50.0},
            {"repetition_penalty": 20.0},
        )
    ]
    engine.finish(beside, *penalised)
    assert beside.text == plain.text
    for reply in penalised:
        assert reply.finish == "length", reply.rows[-1]
        assert reply.text != plain.text


def test_presence_counts_generated_tokens_once_and_frequency_each_time() -> None:
    choice = Choice(presence=1.0, frequency=0.5)
    processor = Processor(choice, prompt=[3, 4])
    logits = mx.zeros((1, 6))
    first = processor(mx.array([4]), logits)  # the prompt's last token is not generated
    assert first.tolist() == [[0.0] * 6]
    processor(mx.array([2]), logits)
    third = processor(mx.array([2]), logits)
    assert third.tolist() == [[0, 0, -2.0, 0, 0, 0]]


def test_repetition_counts_the_prompt_too() -> None:
    processor = Processor(Choice(repetition=2.0), prompt=[0, 1])
    result = processor(mx.array([1]), mx.array([[4.0, -4.0, 4.0]]))
    assert result.tolist() == [[2.0, -8.0, 4.0]]


def test_equal_choices_share_a_sampler_and_seeds_have_their_own() -> None:
    samplers = Samplers()
    warm = Choice(temperature=0.7, top_p=0.9)
    assert samplers.get(warm, None) is samplers.get(Choice(temperature=0.7, top_p=0.9), None)
    assert samplers.get(warm, 1) is not samplers.get(warm, 1)
    assert samplers.get(Choice(), 1) is greedy


def test_the_requests_fields_win_unless_the_model_forces_its_own() -> None:
    request = wire.Sampling(temperature=0.0)
    model = wire.Sampling(temperature=0.7, top_p=0.9)
    assert merge(request, model, force=False) == wire.Sampling(temperature=0.0, top_p=0.9)
    assert merge(request, model, force=True) == wire.Sampling(temperature=0.7, top_p=0.9)
    assert choose(wire.Sampling(), None) == Choice()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_p", -0.1),
        ("top_k", -1),
        ("min_p", 2.0),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("inf")),
    ],
)
def test_values_no_sampler_can_use_are_refused_by_name(engine: Engine, field: str, value: float) -> None:
    refused = engine.ask("dog", **{field: value}).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", field)


def test_a_bias_for_a_token_that_does_not_exist_is_refused(engine: Engine) -> None:
    refused = engine.ask("dog", logit_bias={10**6: 1.0}).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "logit_bias")


def test_after_loading_no_way_to_pick_tokens_compiles_anything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX's CPU backend compiles with a C++ compiler, half a second at a time, into the temporary folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    engine = Engine(tmp_path / "log")
    try:
        engine.load(folder)
        compiled = {path.name for path in scratch.rglob("*") if path.is_file()}
        assert compiled, "nothing was compiled at all, so this looks in the wrong place"
        ways: list[dict[str, Any]] = [
            {},
            {"temperature": 0.7},
            {"temperature": 0.71, "top_p": 0.93},
            {"temperature": 1.3, "min_p": 0.07},
            {"temperature": 0.9, "top_k": 17},
            {"temperature": 0.8, "top_p": 0.5, "min_p": 0.02, "top_k": 5, "seed": 3},
            {"temperature": 0.6, "repetition_penalty": 1.2, "presence_penalty": 0.3},
            {"frequency_penalty": 0.4, "logit_bias": {5: 2.0}},
        ]
        for way in ways:
            assert engine.ask("dog", max_tokens=4, ignore_eos=True, **way).finish == "length"
        engine.finish(*(engine.submit("dog", max_tokens=9, ignore_eos=True, **way) for way in ways * 2))
        assert {path.name for path in scratch.rglob("*") if path.is_file()} == compiled
    finally:
        engine.close()
