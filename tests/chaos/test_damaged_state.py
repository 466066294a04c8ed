"""Whatever bytes of the state database are damaged, LMX starts, reads what it can, and writes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from appliance.app import _SpecFile
from appliance.remembered import Remembered
from reconciler.backoff import Ledger
from reconciler.events import Event, EventType
from reconciler.history import Generation, History
from reconciler.known import Form, Known
from reconciler.observed import Failure
from reconciler.recall import recall

SPEC = b"version: 1\nactive: demo\nmodels:\n  demo: {source: ./somewhere}\n"
TRIES = 400


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as it is after some days of use."""
    path = tmp_path_factory.mktemp("whole") / "history.db"
    parsed = _SpecFile(path).parse(SPEC)
    history = History(path)
    for number in range(60):
        history.add_event(Event(EventType.ACTION, f"step {number}", 1e9 + number, data={"number": number}))
    for number in range(1, 5):
        history.add_generation(Generation(number, parsed.digest, "c" * 64, 1e9, 1e9, SPEC))
    history.save_ledger(Ledger().failed("digest", Failure("crash", "it crashed"), 5.0), 1e9)
    history.save_known(Known("demo", {"demo": Form(4, parsed.spec.models["demo"])}))
    history.next_engine_number()
    history.close()
    return path.read_bytes()


def _damage(data: bytes, random_: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(random_.choice((1, 1, 3, 10))):
        at, count = random_.randrange(len(damaged)), random_.choice((1, 1, 2, 8, 64, 4096))
        damaged[at : at + count] = random_.randbytes(len(damaged[at : at + count]))
    if random_.random() < 0.1:
        del damaged[random_.randrange(len(damaged)) :]
    return bytes(damaged)


def test_a_start_with_a_damaged_database_never_fails(whole: bytes, tmp_path: Path) -> None:
    random_ = random.Random(1)
    outcomes = {"kept": 0, "set aside": 0}
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "history.db"
        path.write_bytes(_damage(whole, random_))
        history = History(path)
        remembered = Remembered(history)
        recall(history, _SpecFile(path).parse, 0.0)
        history.next_engine_number()
        remembered.past(0)
        remembered.history()
        remembered.add_event(Event(EventType.STARTED, "still here", 2e9))
        assert remembered.recent()[-1]["message"] == "still here"
        outcomes["kept" if history.set_aside is None else "set aside"] += 1
        history.close()
        shutil.rmtree(folder)
    assert min(outcomes.values()) > TRIES / 10  # both ways have been tried


def test_one_damaged_event_does_not_hide_the_others(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(whole.replace(b'{"number": 30}', b'\xff"number": 30}'))
    history = History(path)
    assert history.set_aside is None
    assert [e.message for e in history.events()] == [f"step {n}" for n in range(60) if n != 30]
    history.close()
