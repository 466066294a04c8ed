"""Keys that are read again when they change, and who is let in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.access.desk import MAX_BYTES, Access
from appliance.access.throttle import EACH_S, TRIES
from appliance.errors import ApiError
from reconciler.spec import ApiKeys
from tests.access.test_limits import Clock

ONE, TWO = "sk-one-0123456789abcdef", "sk-two-0123456789abcdef"
HERE = "192.0.2.1"
FILE = ApiKeys(file="keys")


class Desk:
    def __init__(self, folder: Path, **environ: str) -> None:
        self.file = folder / "keys"
        self.clock = Clock()
        self.said: list[str] = []
        self.access = Access(folder, environ, self.said.append, self.clock)

    def write(self, text: str, mode: int = 0o600) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.chmod(mode)
        os.replace(new, self.file)

    def look(self) -> str | None:
        """Twice, as two passes of the loop do: what is new must have settled."""
        self.access.look(FILE)
        return self.access.look(FILE)

    def lets_in(self, key: str | None, address: str = HERE) -> bool:
        try:
            self.access.enter(FILE, key, address)
        except ApiError as error:
            if error.code != "unauthorized":
                raise
            return False
        return True


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_file_that_changes_counts_without_a_restart(desk: Desk) -> None:
    desk.write(ONE)
    assert desk.look() is None
    assert (desk.lets_in(ONE), desk.lets_in(TWO), desk.lets_in(None)) == (True, False, False)
    desk.write(TWO)
    assert desk.look() is None
    assert (desk.lets_in(ONE), desk.lets_in(TWO)) == (False, True)
    assert len(desk.said) == 2
    assert "1 API keys are in force" in desk.said[-1]


def test_half_of_a_save_locks_nobody_out(desk: Desk) -> None:
    desk.write(f"{ONE} {TWO}")
    desk.look()
    desk.write(ONE)
    desk.access.look(FILE)
    assert desk.lets_in(TWO)
    desk.write(f"{ONE} {TWO}")
    desk.look()
    assert desk.lets_in(TWO)
    assert len(desk.said) == 1


def test_the_first_caller_does_not_wait_for_a_look(desk: Desk) -> None:
    desk.write(ONE)
    assert desk.lets_in(ONE)


BAD = [
    (lambda d: d.write("short"), "key 1: a key has 16"),
    (lambda d: d.write(""), "holds no key"),
    (lambda d: d.write(ONE, 0o640), "chmod 600"),
    (lambda d: d.write(ONE, 0o604), "chmod 600"),
    (lambda d: d.file.unlink(missing_ok=True), "No such file"),
    (lambda d: d.write("x" * (MAX_BYTES + 1)), "longer than"),
    (lambda d: (d.file.unlink(missing_ok=True), d.file.mkdir()), "no regular file"),
    (lambda d: (d.file.unlink(missing_ok=True), os.mkfifo(d.file)), "no regular file"),
    (lambda d: (d.write("x"), d.file.write_bytes(b"\xff" * 20)), "not UTF-8"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD, ids=[words for _, words in BAD])
def test_a_file_that_cannot_be_taken_leaves_the_keys_that_were(desk: Desk, spoil: object, words: str) -> None:
    desk.write(f"{TWO}\n{ONE}")
    desk.look()
    assert callable(spoil)
    spoil(desk)
    problem = desk.look()
    assert problem is not None
    assert words in problem
    assert (desk.lets_in(ONE), desk.lets_in(None)) == (True, False)
    assert "the 2 keys read before stay in force" in desk.said[-1]
    assert len(desk.said) == 2
    desk.look()
    assert len(desk.said) == 2  # told once
    if desk.file.is_dir():
        desk.file.rmdir()
    desk.write(TWO)
    assert desk.look() is None
    assert (desk.lets_in(ONE), desk.lets_in(TWO)) == (False, True)
    assert all(key not in line for key in (ONE, TWO) for line in desk.said)


@pytest.mark.parametrize(("spoil", "words"), BAD, ids=[words for _, words in BAD])
def test_without_any_keys_ever_nobody_is_let_in(desk: Desk, spoil: object, words: str) -> None:
    assert callable(spoil)
    spoil(desk)
    assert words in (desk.look() or "")
    assert not desk.lets_in(ONE)
    with pytest.raises(ApiError, match="its log says why") as caught:
        desk.access.enter(FILE, ONE, HERE)
    assert str(desk.file) not in caught.value.message


def test_a_variable_holds_keys_in_the_same_forms(tmp_path: Path) -> None:
    desk = Desk(tmp_path, LMX_KEYS=f"{ONE},{TWO}", OTHER=f"ci: {{key: {ONE}, admin: true}}")
    keys = ApiKeys(env="LMX_KEYS")
    assert desk.access.look(keys) is None
    assert desk.access.enter(keys, TWO, HERE).name == "key-2"
    other = ApiKeys(env="OTHER")
    assert desk.access.enter(other, ONE, HERE).admin
    missing = ApiKeys(env="NOT_SET")
    assert "NOT_SET" in (desk.access.look(missing) or "")
    assert desk.access.enter(missing, ONE, HERE).name == "ci"  # what was read before stays in force


def test_keys_that_are_no_longer_asked_for_are_forgotten(desk: Desk) -> None:
    desk.write(ONE)
    desk.look()
    assert desk.access.look(None) is None
    desk.file.unlink()
    desk.look()
    assert not desk.lets_in(ONE)


def test_a_name_keeps_what_it_has_used_through_an_edit(desk: Desk) -> None:
    desk.write(f"ci: {{key: {ONE}, requests_per_minute: 1}}")
    desk.look()
    desk.access.charge(desk.access.enter(FILE, ONE, HERE), 0).close()
    desk.write(f"ci: {{key: {TWO}, requests_per_minute: 1}}")
    desk.look()
    with pytest.raises(ApiError, match="1 requests per minute"):
        desk.access.charge(desk.access.enter(FILE, TWO, HERE), 0)


def test_models_that_the_spec_lacks_are_told(desk: Desk) -> None:
    desk.write(f"ci: {{key: {ONE}, models: [daily, dayly]}}")
    desk.access.look(FILE, ["daily"])
    assert desk.said[-1].endswith("no such model: dayly")


def test_wrong_keys_are_slowed_down_and_known_ones_are_not(desk: Desk) -> None:
    desk.write(f"{ONE} {TWO}")
    desk.look()
    assert desk.lets_in(ONE)
    for i in range(TRIES):
        assert not desk.lets_in(f"wrong-key-{i}")
    for key in ("wrong-again", TWO):  # right or wrong: it is not looked at
        with pytest.raises(ApiError, match="too many wrong API keys") as caught:
            desk.access.enter(FILE, key, HERE)
        assert caught.value.code == "rate_limited"
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= EACH_S
    assert desk.lets_in(ONE)
    assert desk.lets_in(TWO, "192.0.2.9")
    assert not desk.lets_in(None)  # no key is no try
    desk.clock.now += EACH_S
    assert desk.lets_in(TWO)
