"""The scheduler asks the prompt cache at every point, and tells it exactly what a row's caches hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.engine import load, warm, weights
from appliance.engine.admission import BLOCK, shared
from appliance.engine.beat import Gauge
from appliance.engine.intake import Cancelled, Configured
from tests.engine.keeping import Keeping
from tests.engine.stand import Stand, job

LONG = [5 + (7 * n) % 211 for n in range(700)]


@pytest.fixture(scope="module")
def model(folder: Path) -> load.Model:
    order = wire.Load(model="test", path=str(folder))
    return warm.up(load.load(order, weights.check(order), lambda done, total: None), Gauge())


@pytest.fixture
def kept(model: load.Model) -> Keeping:
    return Keeping(model.net)


@pytest.fixture
def stand(model: load.Model, kept: Keeping) -> Stand:
    return Stand(model, kept, prefill_auto=False)


def accepted(stand: Stand) -> dict[int, wire.Accepted]:
    return {message.rid: message for message in stand.out.accepted}


# -- what the caches hold ------------------------------------------------------------------------------


def test_a_row_that_ends_alone_has_all_but_its_last_token_in_its_caches(stand: Stand, kept: Keeping) -> None:
    stand.run(job(1, tokens=7, prompt=LONG[:90]))
    (ended,) = kept.of("ended")
    assert ended[0] == 1
    assert len(ended[1]) == 90 + 7 - 1
    assert kept.of("grown") == [(1, 64), (1, 90)]


def test_rows_that_end_one_after_the_other_in_a_batch_are_kept_from_where_they_are(
    stand: Stand, kept: Keeping
) -> None:
    jobs = [job(n, tokens=4 * n, prompt=LONG[n : n + 11 * n]) for n in (3, 1, 2)]
    stand.run(*jobs)
    assert [len(tokens) for _, tokens in kept.of("ended")] == [11 + 4, 22 + 8, 33 + 12 - 1]
    for one in jobs:
        assert (
            next(tokens for rid, tokens in kept.of("ended") if rid == one.rid)[: len(one.prompt)]
            == one.prompt
        )


def test_what_is_cancelled_while_it_decodes_is_kept_first(stand: Stand, kept: Keeping) -> None:
    look = stand.cancel_when(1, lambda: stand.tokens(1) >= 5)
    stand.run(job(1, tokens=400, prompt=LONG[:20]), job(2, tokens=30, prompt=LONG[5:60]), when=look)
    assert (stand.finish(1), stand.finish(2)) == ("cancelled", "length")
    ((_, tokens),) = [ended for ended in kept.of("ended") if ended[0] == 1]
    assert len(tokens) == 20 + stand.tokens(1)


def test_a_cancelled_prefill_keeps_what_it_computed(stand: Stand, kept: Keeping) -> None:
    look = stand.cancel_when(1, lambda: bool(kept.of("grown")))
    stand.out.when = look
    stand.run(job(1, prompt=LONG), job(2, tokens=40, prompt=LONG[7:17]), when=look)
    assert stand.finish(1) == "cancelled"
    done = max(tokens for rid, tokens in kept.of("grown") if rid == 1)
    assert 0 < done < len(LONG) - 1
    assert [len(tokens) for rid, tokens in kept.of("ended") if rid == 1] == [done]
    stand.run(job(3, prompt=LONG))
    assert accepted(stand)[3].cached_tokens == done


def test_one_that_is_cancelled_before_its_first_chunk_leaves_nothing(stand: Stand, kept: Keeping) -> None:
    stand.put(job(1, prompt=LONG), Cancelled(1))
    stand.run(job(2))
    assert stand.finish(1) == "cancelled"
    assert {rid for rid, _ in kept.of("ended")} == {2}


def test_a_prefill_pauses_where_a_state_is_to_be_kept(stand: Stand, kept: Keeping) -> None:
    kept.stops = [10, 64, 100, 699, 5000]
    stand.run(job(1, prompt=LONG[:300]))
    assert [tokens for _, tokens in kept.of("grown")] == [10, 64, 100, 164, 228, 292, 300]


# -- restoring -----------------------------------------------------------------------------------------


def test_a_restored_beginning_changes_no_token_and_is_told(
    model: load.Model, stand: Stand, kept: Keeping
) -> None:
    cold = Stand(model)
    prompts = [LONG[:300], LONG[:300], LONG[:200] + [9, 8, 7], [3], LONG[:40]]
    for rid, prompt in enumerate(prompts, start=1):
        for each in (cold, stand):
            each.run(job(rid, tokens=20, prompt=prompt))
        assert stand.text(rid) == cold.text(rid)
    told = [(a.prompt_tokens, a.cached_tokens, a.cached_from) for a in stand.out.accepted]
    assert told == [
        (300, 0, None),
        (300, 299, "memory"),
        (203, 200, "memory"),
        (1, 0, None),
        (40, 39, "memory"),
    ]
    assert kept.of("begin") == [(1, 0), (2, 299), (3, 200), (4, 0), (5, 39)]
    assert stand.gauge.prompt_tokens == 300 + 1 + 3 + 1 + 1, "only what was computed counts"


def test_rows_with_and_without_a_restored_beginning_decode_together(
    model: load.Model, stand: Stand, kept: Keeping
) -> None:
    stand.run(job(1, prompt=LONG[:300]))
    jobs = [
        job(2, prompt=LONG[:250]),
        job(3, prompt=LONG[9:40]),
        job(4, prompt=LONG[:290]),
        job(5, prompt=LONG[8:50]),
    ]
    stand.run(*jobs)
    cold = Stand(model)
    cold.run(*jobs)
    assert [stand.text(rid) for rid in (2, 3, 4, 5)] == [cold.text(rid) for rid in (2, 3, 4, 5)]
    assert [accepted(stand)[rid].cached_tokens for rid in (2, 3, 4, 5)] == [249, 0, 289, 0]


def test_the_next_turn_of_a_conversation_starts_where_the_answer_ended(stand: Stand, kept: Keeping) -> None:
    stand.run(job(1, tokens=30, prompt=LONG[:100]))
    ((_, held),) = kept.of("ended")
    stand.run(job(2, prompt=held + [1, 2, 3]))
    assert accepted(stand)[2].cached_tokens == 129


# -- the disk ------------------------------------------------------------------------------------------


def test_others_decode_while_one_waits_for_the_disk_and_it_wakes_the_engine(
    stand: Stand, kept: Keeping
) -> None:
    stand.run(job(1, prompt=LONG[:300]))
    kept.tier = "disk"
    fetched_at: list[int] = []

    def look() -> None:
        if kept.fetching and stand.tokens(3) >= 15:
            fetched_at.append(stand.tokens(3))
            threading.Thread(target=kept.release).start()

    stand.run(job(2, prompt=LONG[:300]), job(3, tokens=400, prompt=[9, 9, 8]), when=look, until={2, 3})
    assert fetched_at
    assert stand.finish(2) == "length"
    assert (accepted(stand)[2].cached_tokens, accepted(stand)[2].cached_from) == (299, "disk")
    kept.calls.clear()
    release_when_it_sleeps(kept)
    stand.run(job(4, prompt=LONG[:300]))
    assert accepted(stand)[4].cached_tokens == 299
    assert kept.of("idle"), "the engine slept, and the disk woke it"


def release_when_it_sleeps(kept: Keeping) -> None:
    idle = kept.idle

    def look() -> None:
        idle()
        if kept.fetching:
            threading.Timer(0.02, kept.release).start()

    kept.idle = look  # type: ignore[method-assign]


def test_a_fetch_holds_its_row_and_its_memory(model: load.Model, kept: Keeping) -> None:
    stand = Stand(model, kept, concurrency=1)
    stand.run(job(1, prompt=LONG[:300]))
    kept.tier = "disk"
    seen: list[tuple[int, int]] = []

    def idle() -> None:
        if kept.fetching:
            seen.append((len(stand.out.accepted), stand.gauge.reserved))
            kept.release()

    kept.idle = idle  # type: ignore[method-assign]
    stand.run(job(2, prompt=LONG[:300]), job(3, prompt=[9, 9]))
    assert [a.rid for a in stand.out.accepted] == [1, 2, 3], "the third did not take the second's row"
    assert seen == [(1, model.price.cache(1, 310))]


def test_what_is_fetched_for_a_cancelled_request_is_forgotten(stand: Stand, kept: Keeping) -> None:
    stand.run(job(1, prompt=LONG[:300]))
    kept.tier = "disk"
    look = stand.cancel_when(2, lambda: bool(kept.fetching))
    stand.run(job(2, prompt=LONG[:300]), job(3, tokens=20, prompt=[9, 9]), when=look)
    assert stand.finish(2) == "cancelled"
    assert 2 not in accepted(stand)
    assert kept.of("forget") == [(2,)]
    kept.release()  # too late, and no harm
    stand.run(job(4, prompt=[4, 4]))
    assert stand.finish(4) == "length"


# -- prompts that begin alike --------------------------------------------------------------------------


def test_identical_prompts_compute_once(stand: Stand, kept: Keeping) -> None:
    stand.run(job(1, prompt=LONG), job(2, prompt=LONG), job(3, prompt=LONG))
    cached = [accepted(stand)[rid].cached_tokens for rid in (1, 2, 3)]
    assert cached[0] == 0
    assert min(cached[1:]) >= 512
    assert stand.text(1) == stand.text(2) == stand.text(3)


def test_others_pass_one_that_waits_for_the_same_beginning(stand: Stand) -> None:
    stand.run(job(1, prompt=LONG), job(2, prompt=LONG), job(3, prompt=LONG[3:30]))
    assert [a.rid for a in stand.out.accepted] == [1, 3, 2]


def test_it_goes_on_when_the_other_ends_early_with_what_there_is(stand: Stand, kept: Keeping) -> None:
    look = stand.cancel_when(1, lambda: len(kept.of("grown")) >= 3)
    beside = job(3, tokens=60, prompt=LONG[3:10])
    stand.run(beside, job(1, prompt=LONG), job(2, prompt=LONG), when=look)
    assert (stand.finish(1), stand.finish(2)) == ("cancelled", "length")
    done = max(tokens for rid, tokens in kept.of("grown") if rid == 1)
    assert accepted(stand)[2].cached_tokens == done


@pytest.mark.parametrize(
    ("other", "scope", "memory"),
    [(LONG[:255], "", 2**30), (LONG[:256] + [1, 2], "b", 2**30), (LONG[:256] + [1, 2], "", 0)],
    ids=["less than a block", "another scope", "nothing is kept"],
)
def test_nobody_waits_for_what_would_not_help(
    model: load.Model, kept: Keeping, other: list[int], scope: str, memory: int
) -> None:
    stand = Stand(model, kept, cache_memory=memory)
    stand.run(job(1, prompt=LONG, scope=""), job(2, prompt=other, scope=scope))
    first = stand.out.frames.index(accepted(stand)[2])
    assert not any(isinstance(frame, wire.Step) for frame in stand.out.frames[:first])


def test_shared_counts_whole_blocks_of_what_both_compute() -> None:
    assert shared(LONG, LONG) == 2 * BLOCK
    assert shared(LONG[: 2 * BLOCK + 1], LONG) == 2 * BLOCK
    assert shared(LONG[: 2 * BLOCK], LONG) == BLOCK, "the last token is always computed"
    assert shared([1, *LONG[1:]], LONG) == 0


# -- memory --------------------------------------------------------------------------------------------


def test_rows_take_from_the_cache_what_they_need(model: load.Model, kept: Keeping) -> None:
    stand = Stand(model, kept)
    row = model.price.cache(1, 711)
    room = 6 * row
    stand.into.limits = wire.Configure(
        context=4096, concurrency=8, prefill_chunk=64, cache_memory=2**30, memory=model.price.base + room
    )
    stand.put(Configured())
    for rid in range(1, 10):
        stand.run(job(rid, prompt=[rid, *LONG]))
        assert kept.nbytes <= room
    alone = kept.nbytes
    assert alone > row, "it keeps what the rows leave"
    assert min(most for (most,) in kept.of("shrink")[1:]) <= room - row
    stand.run(*(job(rid, tokens=20, prompt=[rid, *LONG]) for rid in (11, 12, 13)))
    assert min(most for (most,) in kept.of("shrink")) <= room - 3 * row
    assert {stand.finish(rid) for rid in (11, 12, 13)} == {"length"}


def test_without_a_limit_the_cache_has_what_it_is_allowed(model: load.Model, kept: Keeping) -> None:
    stand = Stand(model, kept, cache_memory=12345)
    stand.run(job(1))
    assert {most for (most,) in kept.of("shrink")} == {12345}


# -- the rest of the seam ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["look", "restore", "begin", "grown"])
def test_a_fault_of_the_cache_ends_its_own_request_only(stand: Stand, kept: Keeping, what: str) -> None:
    beside = job(1, tokens=50)
    before: list[Callable[[], Any]] = [lambda: kept.fail.add(what) or stand.put(job(2, prompt=LONG[:90]))]

    def look() -> None:
        if before and stand.tokens(1) >= 3:
            before.pop()()

    stand.run(beside, when=look, until={1, 2})
    assert (stand.finish(1), stand.finish(2)) == ("length", "error")
    assert f"{what} does not work" in str(stand.out.rows[2][-1].message)
    kept.fail.clear()
    stand.run(job(3))
    assert stand.finish(3) == "length"


def test_a_fault_in_keeping_an_answer_spoils_no_answer(stand: Stand, kept: Keeping) -> None:
    kept.fail.add("ended")
    stand.run(job(1), job(2, tokens=20))
    assert [stand.finish(rid) for rid in (1, 2)] == ["length", "length"]


def test_sessions_are_listed_and_dropped_and_the_end_is_told(stand: Stand, kept: Keeping) -> None:
    stand.put(wire.ListSessions(4), wire.DropSession(5, "one", "s"))
    stand.run(job(1))
    answers = [frame for frame in stand.out.frames if isinstance(frame, wire.Sessions)]
    assert [(a.number, [s.name for s in a.sessions]) for a in answers] == [(4, ["one", "two"]), (5, ["one"])]
    assert kept.of("drop") == [("one", "s")]
    assert kept.calls[-1] == ("close",)
    assert len(kept.of("turn")) > 10
    assert kept.of("idle")


def test_new_limits_reach_the_cache(stand: Stand, kept: Keeping) -> None:
    stand.into.limits = wire.Configure(context=99, cache_memory=7)
    stand.put(Configured())
    stand.run(job(1))
    assert [limits.cache_memory for (limits,) in kept.of("apply")] == [2**30, 7]
