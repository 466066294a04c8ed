"""A cancelled request frees what it holds, wherever it is."""

from __future__ import annotations

from appliance import wire
from tests.engine.client import Engine


def cancel(engine: Engine, rid: int) -> None:
    engine.send(wire.Cancel(rid))


def test_a_running_row_is_free_within_a_few_steps(engine: Engine) -> None:
    beside = engine.submit("dog", max_tokens=450, ignore_eos=True)
    row = engine.submit("fox", max_tokens=450, ignore_eos=True)
    engine.until(lambda: bool(row.rows and beside.rows))
    cancel(engine, row.rid)
    engine.finish(row)
    assert row.finish == "cancelled"
    assert row.rows[-1].tokens < 450
    engine.finish(beside)
    assert beside.finish == "length"


def test_cancelling_all_rows_leaves_an_idle_engine(engine: Engine) -> None:
    rows = [engine.submit("dog", max_tokens=450, ignore_eos=True) for _ in range(3)]
    engine.until(lambda: all(row.rows for row in rows))
    for row in rows:
        cancel(engine, row.rid)
    engine.finish(*rows)
    assert {row.finish for row in rows} == {"cancelled"}
    engine.beats.clear()
    engine.until(lambda: any(beat.stage == "idle" and beat.rows == 0 for beat in engine.beats))
    assert engine.ask("dog", max_tokens=3, ignore_eos=True).finish == "length"


def test_a_waiting_request_and_one_in_prefill_can_be_cancelled(engine: Engine) -> None:
    engine.send(wire.Configure(context=2000, concurrency=1, prefill_chunk=8))
    prefilling = engine.submit([7] * 1500, max_tokens=5)
    waiting = engine.submit([7] * 10, max_tokens=5)
    engine.until(lambda: prefilling.accepted is not None)
    cancel(engine, waiting.rid)
    cancel(engine, prefilling.rid)
    engine.finish(waiting, prefilling)
    engine.send(wire.Configure(context=512, concurrency=16))
    assert (waiting.finish, prefilling.finish) == ("cancelled", "cancelled")
    assert waiting.accepted is None, "it never began, so it could still have run elsewhere"
    assert prefilling.rows[-1].tokens == 0


def test_a_request_that_is_still_being_tokenised_can_be_cancelled(engine: Engine) -> None:
    engine.send(wire.Configure(context=10**7, concurrency=16))
    busy = engine.submit("The quick brown fox. " * 30_000, max_tokens=2)
    behind = engine.submit("dog", max_tokens=2)
    cancel(engine, behind.rid)
    cancel(engine, busy.rid)
    engine.finish(busy, behind)
    engine.send(wire.Configure(context=512, concurrency=16))
    assert (busy.finish, behind.finish) == ("cancelled", "cancelled")
    assert (busy.accepted, behind.accepted) == (None, None)


def test_an_unknown_request_is_no_error(engine: Engine) -> None:
    cancel(engine, 10**9)
    ended = engine.ask("dog", max_tokens=2)
    cancel(engine, ended.rid)
    assert engine.ask("dog", max_tokens=2, ignore_eos=True).finish == "length"
    assert len([row for row in ended.rows if row.finish]) == 1
