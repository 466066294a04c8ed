"""Both tiers behind the scheduler, on real models: what is found again, what gives way, what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.engine import load, warm, weights
from appliance.engine.beat import Gauge
from appliance.engine.opening import Opening
from appliance.engine.prompt_cache import PromptCache, special_tokens
from appliance.engine.reuse import Restored, Trail
from appliance.prompt_cache.index import Index
from appliance.prompt_cache.stops import boundaries
from tests.engine import models
from tests.engine.stand import Stand, job

ARCHITECTURES = {"dense": models.QWEN3, "sliding": models.GEMMA3, "hybrid": models.QWEN3_NEXT}
START, END = 0, 1  # the template's markers, both special tokens
NS = "0" * 32


def words(count: int, seed: int = 0) -> list[int]:
    return [5 + (seed * 31 + 7 * n + n * n % 13) % 211 for n in range(count)]


def turn(count: int, seed: int) -> list[int]:
    return [START, *words(count, seed), END]


SYSTEM = turn(298, 1)
FIRST = [*SYSTEM, *turn(340, 2), START]  # 643 tokens: two whole blocks


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: models.write(root / name, config) for name, config in ARCHITECTURES.items()}


def loaded(folder: Path, **more: Any) -> load.Model:
    order = wire.Load(model="test", path=str(folder), **more)
    return warm.up(load.load(order, weights.check(order), lambda done, total: None), Gauge())


@pytest.fixture(scope="module")
def nets(folders: dict[str, Path]) -> dict[str, load.Model]:
    return {name: loaded(folder) for name, folder in folders.items()}


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, nets: dict[str, load.Model]) -> load.Model:
    return nets[request.param]


@pytest.fixture
def dense(nets: dict[str, load.Model]) -> load.Model:
    return nets["dense"]


class Kept(PromptCache):
    """Remembers what each row's caches held at its end."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.texts: dict[int, list[int]] = {}

    def ended(self, trail: Trail, caches: list[Any], row: int | None, tokens: Any) -> None:
        self.texts[trail.job.rid] = list(tokens)
        super().ended(trail, caches, row, tokens)


class Engine:
    """One life of an engine: a model, its cache, and a scheduler."""

    def __init__(
        self, model: load.Model, folder: Path | None = None, disk: Path | None = None, **limits: Any
    ) -> None:
        self.model = model
        if disk is None:
            self.cache = Kept(model, Index(NS, False), None)
        else:
            order = wire.Load(model="test", path=str(folder), cache_path=str(disk))
            self.cache = Kept(model, *Opening(order).result())
            limits = {"cache_disk": 2**30, **limits}
        self.stand = Stand(model, self.cache, **limits)
        self._rid = 0

    def ask(self, *prompts: list[int], tokens: int = 12, **more: Any) -> list[wire.Accepted]:
        """Serve these together; their Accepted. Each one's text is what a cache-less engine says."""
        jobs = []
        for prompt in prompts:
            self._rid += 1
            jobs.append(job(self._rid, tokens=tokens, prompt=prompt, **more))
        self.stand.run(*jobs)
        cold = Stand(self.model, cache_memory=0)
        cold.run(*jobs)
        for one in jobs:
            assert self.stand.text(one.rid) == cold.text(one.rid)
        found = {accepted.rid: accepted for accepted in self.stand.out.accepted}
        return [found[one.rid] for one in jobs]

    def cached(self, prompt: list[int], **more: Any) -> int:
        return self.ask(prompt, **more)[0].cached_tokens

    @property
    def text(self) -> list[int]:
        """What was kept of the newest row."""
        return self.cache.texts[self._rid]


# -- what is found again -------------------------------------------------------------------------------


def test_the_next_turn_goes_on_where_the_answer_ended(model: load.Model) -> None:
    engine = Engine(model)
    assert engine.cached(FIRST) == 0
    said = engine.text
    assert len(said) > len(FIRST)
    assert engine.cached([*said, END, *turn(30, 3), START]) == len(said)
    said = engine.text
    assert engine.cached([*said, END, *turn(30, 4), START]) == len(said)
    use = engine.cache.use()
    assert (use.memory_hits, use.disk_hits, use.misses) == (2, 0, 1)
    assert use.memory_bytes == engine.cache.nbytes > 0


def test_a_dense_model_resumes_at_any_token(dense: load.Model) -> None:
    engine = Engine(dense)
    engine.cached(FIRST)
    assert engine.cached(FIRST) == len(FIRST) - 1
    for shared in (40, 255, 256, 257, 511, 600):
        assert engine.cached([*FIRST[:shared], 4, *words(30, shared)]) == shared
    assert engine.cached([*FIRST[:20], 4, *words(200, 9)]) == 0, "so little in common is the template's"


def test_what_was_computed_again_is_in_memory_although_the_disk_has_it(
    dense: load.Model, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it was still being written, out of a memory tier of nothing, when it was looked for."""
    engine = Engine(dense, folders["dense"], tmp_path, cache_memory=2**30)
    engine.cache.shrink(0)
    engine.stand.run(job(49, tokens=12, prompt=FIRST))
    engine.cache.shrink(2**30)
    with monkeypatch.context() as patch:
        patch.setattr(engine.cache, "_usable", lambda entry: entry.payload is not None)
        patch.setattr(engine.cache, "_kept", lambda entry: True)
        engine.stand.run(job(50, tokens=12, prompt=FIRST))
        assert next(a for a in engine.stand.out.accepted if a.rid == 50).cached_tokens == 0
    engine.stand.run(job(51, tokens=12, prompt=FIRST))
    again = next(a for a in engine.stand.out.accepted if a.rid == 51)
    assert (again.cached_tokens, again.cached_from) == (512, "memory")


@pytest.mark.parametrize("name", ["sliding", "hybrid"])
def test_other_models_resume_at_the_boundaries_of_turns(nets: dict[str, load.Model], name: str) -> None:
    engine = Engine(nets[name])
    engine.cached(FIRST)
    assert engine.cached(FIRST) == len(FIRST) - 1, "where the prompt ended, before its answer's opening"
    other_question = [*SYSTEM, *turn(50, 5), START]
    assert engine.cached(other_question) == len(SYSTEM)
    longer = [*FIRST[:-1], START, *words(20, 6), END, *turn(40, 7), START]
    assert engine.cached(longer) == len(FIRST) - 1
    edited = [*longer[: -40 - 3], *turn(44, 8), START]
    assert engine.cached(edited) == len(longer) - 40 - 3, "before the last user turn"


@pytest.mark.parametrize("name", ["sliding", "hybrid"])
def test_a_state_before_the_end_of_known_blocks_is_kept_where_it_is(
    nets: dict[str, load.Model], name: str
) -> None:
    engine = Engine(nets[name])
    turns = [*SYSTEM, *turn(60, 2), *turn(500, 3)]
    engine.cached([*turns, *turn(60, 4), START])  # states at 300, 864 and 926, and blocks up to 768
    assert engine.cached([*turns[:600], START]) == 300
    assert engine.cached([*turns[:560], *words(50, 5)]) == 362
    assert engine.cached([*turns[:590], *words(50, 6)]) == 362


@pytest.mark.parametrize("name", ["sliding", "hybrid"])
def test_of_plain_text_the_same_prompt_is_found_again(nets: dict[str, load.Model], name: str) -> None:
    engine = Engine(nets[name])
    assert engine.cached(words(500)) == 0
    assert engine.cached(words(500)) == 499
    assert engine.cached(engine.text) == 499


def test_a_batch_leaves_what_each_of_its_rows_computed(model: load.Model) -> None:
    engine = Engine(model)
    prompts = [FIRST, [*turn(150, 11), START], [*turn(400, 12), *turn(60, 13), START]]
    engine.ask(*prompts, tokens=9)
    for rid in (1, 2, 3):
        said = engine.cache.texts[rid]
        assert engine.cached([*said, END, *turn(10, 14 + rid), START]) == len(said)
    again = engine.ask(*([*engine.cache.texts[rid], 7] for rid in (1, 2, 3)))
    assert all(one.cached_tokens for one in again), "restored ones decode together as well"


def test_a_cancelled_prefill_keeps_what_it_computed(model: load.Model) -> None:
    engine = Engine(model)
    grown: list[int] = []
    keep = engine.cache.grown

    def watch(trail: Trail, caches: list[Any], row: int | None, tokens: Any) -> None:
        keep(trail, caches, row, tokens)
        if trail.job.rid == 1:
            grown.append(len(tokens))

    engine.cache.grown = watch  # type: ignore[method-assign]
    prompt = [*turn(900, 21), START]
    look = engine.stand.cancel_when(1, lambda: bool(grown) and grown[-1] >= 300)
    engine.stand.run(
        job(1, prompt=prompt), job(2, tokens=60, prompt=words(9)), until={1, 2}, when=look
    )  # the other one's frames tell when
    assert engine.stand.finish(1) == "cancelled"
    done = grown[-1]
    assert done < 900
    engine._rid = 2
    assert engine.cached(prompt) == done


def test_prompts_of_one_scope_are_not_found_from_another(model: load.Model) -> None:
    engine = Engine(model)
    engine.cached(FIRST, scope="mine")
    assert engine.cached(FIRST) == 0
    assert engine.cached(FIRST, scope="yours") == 0
    assert engine.cached(FIRST, scope="mine") == len(FIRST) - 1


def test_a_quantised_model_keeps_and_restores_its_quantised_keys(folders: dict[str, Path]) -> None:
    config = {**models.QWEN3, "head_dim": 32}
    folder = models.write(folders["dense"].parent / "quantised", config)
    engine = Engine(loaded(folder, kv_bits=8))
    engine.cached(FIRST)
    assert engine.cached([*FIRST[:300], *words(50, 3)]) == 300
    said = engine.text
    assert engine.cached([*said, 9, 8, 7]) == len(said)


# -- what is not kept ----------------------------------------------------------------------------------


def test_short_texts_are_neither_kept_nor_counted(model: load.Model) -> None:
    engine = Engine(model)
    for _ in range(2):
        assert engine.cached(words(90), tokens=8) == 0
    use = engine.cache.use()
    assert (use.memory_hits, use.misses, use.memory_bytes, engine.cache.nbytes) == (0, 0, 0, 0)


def test_a_cache_that_is_off_keeps_and_counts_nothing(model: load.Model) -> None:
    engine = Engine(model, cache_memory=0)
    for _ in range(2):
        assert engine.cached(FIRST) == 0
    assert engine.cache.use() == wire.CacheUse()


def test_memory_never_holds_more_than_it_may_and_beginnings_stay_longest(dense: load.Model) -> None:
    engine = Engine(dense)
    engine.cached(FIRST)
    engine.cached([*turn(500, 30), START])
    whole = engine.cache.nbytes
    engine.cache.shrink(whole * 2 // 3)  # the older text loses its end
    assert 0 < engine.cache.nbytes <= whole * 2 // 3
    engine.cache.shrink(2**40)
    assert engine.cached(FIRST) in (256, 512)
    engine.cache.shrink(0)
    assert engine.cache.nbytes == 0
    engine.cache.shrink(2**40)
    assert engine.cached(FIRST) == 0


def test_a_text_larger_than_the_memory_tier_keeps_its_beginning(dense: load.Model) -> None:
    block = 2 * 2 * 2 * 16 * 4 * 256  # bytes
    engine = Engine(dense, cache_memory=2 * block + 100)
    engine.cached([*turn(1200, 31), START])
    assert engine.cache.nbytes == 2 * block
    assert engine.cached([*turn(1200, 31), START]) == 512


def test_a_block_that_could_never_fit_drives_out_nothing(dense: load.Model) -> None:
    engine = Engine(dense)
    engine.cached([*turn(150, 32), START], tokens=1)
    held = engine.cache.nbytes
    engine.cache.apply(wire.Configure(context=4096, cache_memory=held + 1000))  # less than a whole block
    engine.stand.into.limits = wire.Configure(context=4096, cache_memory=held + 1000)
    engine.cached([*turn(600, 33), START])
    assert engine.cache.nbytes == held
    assert engine.cached([*turn(150, 32), START]) == 152


def test_a_tier_that_is_turned_off_while_it_serves_is_emptied(dense: load.Model) -> None:
    engine = Engine(dense)
    engine.cached(FIRST)
    engine.cache.apply(wire.Configure(context=4096))
    assert engine.cache.nbytes == 0


# -- the disk ------------------------------------------------------------------------------------------


def test_a_restarted_engine_finds_what_the_last_one_computed(
    folders: dict[str, Path], nets: dict[str, load.Model], tmp_path: Path
) -> None:
    for name, model in nets.items():
        before = Engine(model, folders[name], tmp_path)
        before.cached(FIRST)
        after = Engine(model, folders[name], tmp_path)
        (accepted,) = after.ask([*before.text, END, *turn(20, 40), START])
        assert (accepted.cached_tokens, accepted.cached_from) == (len(before.text), "disk")
        use = after.cache.use()
        assert (use.disk_hits, use.memory_hits, use.disk, use.damaged) == (1, 0, "ready", 0)
        assert use.disk_bytes > 0
        other = Engine(model, folders[name], tmp_path, cache_disk=0)
        assert other.cached(FIRST) == 0, "a disk tier that is off is not read"


def test_a_cache_of_disk_alone_works(
    folders: dict[str, Path], nets: dict[str, load.Model], tmp_path: Path
) -> None:
    for expected in (0, len(FIRST) - 1):
        engine = Engine(nets["hybrid"], folders["hybrid"], tmp_path, cache_memory=0)
        assert engine.cached(FIRST) == expected
        assert engine.cache.use().memory_bytes == 0


def test_a_damaged_file_shortens_what_is_restored_and_is_counted(
    folders: dict[str, Path], dense: load.Model, tmp_path: Path
) -> None:
    before = Engine(dense, folders["dense"], tmp_path)
    before.cached(FIRST)
    index = before.cache._index
    second = index.match("", b"".join(t.to_bytes(4, "little") for t in FIRST), 600).blocks[1]
    (file,) = tmp_path.rglob(f"{second.key.hex()}.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    after = Engine(dense, folders["dense"], tmp_path)
    assert after.cached(FIRST) == 256
    assert after.cache.use().damaged == 1
    again = Engine(dense, folders["dense"], tmp_path)
    assert again.cached(FIRST) == len(FIRST) - 1, "what was lost has been computed and written again"


def test_the_end_of_a_text_is_not_written_where_the_conversation_goes_on_at_once(
    folders: dict[str, Path], dense: load.Model, tmp_path: Path
) -> None:
    engine = Engine(dense, folders["dense"], tmp_path)
    now = [0.0]
    engine.cache._clock = lambda: now[0]
    outgoing = engine.cache._outgoing
    assert outgoing is not None
    put: list[bytes] = []
    real = outgoing._store.put

    def counted(record: Any, *more: Any) -> bool:
        put.append(record.key)
        return real(record, *more)

    outgoing._store.put = counted  # type: ignore[method-assign]
    engine.stand.scheduler._reuse.close = lambda: None  # type: ignore[method-assign]
    engine.cached(FIRST, tokens=4)
    engine.cache.idle()
    assert len(put) == 2, "whole blocks go at once"
    engine.cached([*engine.text, *words(5)], tokens=4)
    engine.cache.idle()
    assert len(put) == 2
    now[0] += 1.0
    engine.cache.idle()
    assert len(put) == 3, "of two ends the second has replaced the first"


# -- sessions ------------------------------------------------------------------------------------------


def test_named_sessions_give_way_last_and_can_be_dropped(model: load.Model) -> None:
    engine = Engine(model)
    engine.cached(FIRST, session="mine")
    said = engine.text
    own = engine.cache.nbytes
    for seed in range(50, 54):
        engine.cached([*turn(500, seed), START])
    engine.cache.shrink(own + 100)
    engine.cache.shrink(2**40)
    (session,) = engine.cache.sessions()
    assert (session.name, session.tokens, session.disk_bytes) == ("mine", len(said), 0)
    assert session.memory_bytes > 0
    assert engine.cached([*said, 9]) == len(said)
    assert [one.name for one in engine.cache.drop("mine", None)] == ["mine"]
    assert engine.cache.sessions() == []
    assert engine.cache.drop("mine", None) == []


def test_dropping_a_session_keeps_what_another_text_shares(model: load.Model) -> None:
    engine = Engine(model)
    engine.cached(FIRST, session="one")
    engine.cached([*SYSTEM, *turn(340, 60), START], session="two")
    assert {one.name for one in engine.cache.drop("one", "")} == {"one"}
    assert engine.cached([*SYSTEM, *turn(340, 61), START]) >= 256
    for name in (None,):
        engine.cache.drop(name, None)
    assert engine.cache.sessions() == []


def test_a_dropped_session_is_found_in_neither_tier(
    folders: dict[str, Path], dense: load.Model, tmp_path: Path
) -> None:
    Engine(dense, folders["dense"], tmp_path).cached(FIRST, session="mine")
    engine = Engine(dense, folders["dense"], tmp_path)
    (session,) = engine.cache.sessions()
    assert (session.name, session.memory_bytes) == ("mine", 0)
    assert session.disk_bytes > 0
    engine.cache.drop("mine", None)
    assert engine.cached(FIRST) == 0
    later = Engine(dense, folders["dense"], tmp_path)
    assert later.cache.sessions() == []


def test_an_idle_session_leaves_memory_for_the_disk(
    folders: dict[str, Path], dense: load.Model, tmp_path: Path
) -> None:
    Engine(dense, folders["dense"], tmp_path).cached(FIRST, session="mine")
    engine = Engine(dense, folders["dense"], tmp_path)
    now = [2e9]
    engine.cache._clock = lambda: now[0]
    assert engine.cached(FIRST, session="mine", tokens=1) == len(FIRST) - 1
    assert engine.cache._index.memory > 0
    now[0] += 599
    engine.cache.idle()
    assert engine.cache._index.memory > 0
    now[0] += 2
    engine.cache.idle()
    assert engine.cache._index.memory == 0


# -- boundaries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([100, 100, 100], [102, 204, 306]),  # system, user, user, and the answer's opening
        ([100, 100], [102, 204]),
        ([100], [102]),
        ([100, 100, 5], [102, 211]),  # too close together: the next turn goes on from the answer's opening
        ([100, 5], [102]),  # but what others share comes first
        ([], []),
    ],
)
def test_boundaries_are_where_prompts_go_on_differently(turns: list[int], expected: list[int]) -> None:
    tokens = [token for seed, count in enumerate(turns) for token in turn(count, seed)]
    assert boundaries([*tokens, START, *words(3)] if turns else words(100), {START, END}) == expected


def test_boundaries_without_a_repeated_marker_are_before_the_last_special_token() -> None:
    assert boundaries([*words(50), 0, *words(50), 1, *words(4)], {0, 1, 999}) == [101]
    assert boundaries([*words(50), 0, *words(50), 1, *words(4)], {0, 1}, least=200) == []
    assert boundaries(words(50), set()) == []


def test_markers_that_are_only_added_tokens_count_as_special(dense: load.Model) -> None:
    assert {START, END} <= set(special_tokens(dense.tokenizer))


@pytest.mark.parametrize(("name", "stops"), [("dense", []), ("hybrid", [len(SYSTEM), len(FIRST) - 1])])
def test_only_a_model_with_states_pauses_its_prefills(
    nets: dict[str, load.Model], name: str, stops: list[int]
) -> None:
    cache = Engine(nets[name]).cache
    assert cache.begin(job(1, prompt=FIRST), Restored()).stops == stops
