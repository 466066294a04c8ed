"""What a key file may say, and that no message quotes it."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest

from appliance.access.keyring import Keyring, KeysError, parse

ONE, TWO = "sk-one-0123456789abcdef", "sk-two-0123456789abcdef"
TEN = "abcdefghijklmnop0"


def test_plain_keys_are_numbered_and_may_do_everything_but_change_things() -> None:
    ring = parse(f"# of the team\n{ONE}, {TWO}\n")
    assert [key.name for key in ring.keys] == ["key-1", "key-2"]
    found = ring.find(TWO)
    assert found is not None
    assert (found.name, found.admin, found.requests, found.models) == ("key-2", False, None, None)
    assert ring.find(TWO + "x") is None
    assert ring.find("") is None


def test_a_map_says_what_each_key_may_do() -> None:
    ring = parse(
        f"alice: {{sha256: {sha256(ONE.encode()).hexdigest().upper()}}}\n"
        f"ci:\n  key: {TWO}  # of the build\n  requests_per_minute: 60\n  tokens_per_minute: 1000\n"
        "  streams: 4\n  models: [daily]\n  admin: true\n"
    )
    alice, ci = ring.find(ONE), ring.find(TWO)
    assert alice is not None
    assert ci is not None
    assert (alice.name, alice.admin, alice.may_use("anything")) == ("alice", False, True)
    assert (ci.requests, ci.tokens, ci.streams, ci.admin) == (60, 1000, 4, True)
    assert (ci.may_use("daily"), ci.may_use("other")) == (True, False)


def test_keys_are_not_kept() -> None:
    assert ONE not in repr(vars(parse(ONE)))
    assert ONE not in repr(parse(f"a: {{key: {ONE}}}").keys)


def test_an_empty_ring_lets_nobody_in() -> None:
    assert Keyring().find("") is None
    assert Keyring().find(ONE) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        (" , ,\n", "holds no key"),
        (f"{ONE} short", "key 2: a key has 16 to 512 characters, found 5"),
        (f"{ONE}\n{'x' * 513}", "key 2: a key has 16 to 512"),
        (f"{ONE}\u00e9", "printable ASCII"),
        (f"{ONE} {ONE}", "key-1 and key-2 are the same key"),
        (f"a: {{key: {ONE}}}\nb: {{sha256: {sha256(ONE.encode()).hexdigest()}}}", "a and b are the same"),
        (f"a: {{key: {ONE}}}\na: {{key: {TWO}}}", "line 2: not valid YAML, or a name that is here twice"),
        (f"a: {{key: {ONE}\n", "not valid YAML"),
        (f"a: {ONE}", "line 1, a: write its settings below it"),
        (f"{ONE}/with/path:\n  admin: true", "line 1: a key's name has 1 to 64"),
        (f"a: {{key: {ONE}, sha256: {'0' * 64}}}", "exactly one of key and sha256"),
        ("a: {admin: true}", "exactly one of key and sha256"),
        (f"a:\n  key: {ONE}\n  {TWO}: 1", "line 3: not a setting of a key; known are key, sha256"),
        ("a: {key: 1234567890123456}", "put it in quotes"),
        ("a: {sha256: sk-one-0123456789abcdef}", "64 hexadecimal digits"),
        (f"a: {{key: {ONE}, requests_per_minute: 0}}", "whole number from 1"),
        (f"a: {{key: {ONE}, tokens_per_minute: 1.5}}", "whole number from 1"),
        (f"a: {{key: {ONE}, streams: true}}", "whole number from 1"),
        (f"a: {{key: {ONE}, admin: yes}}", "admin is true or false"),
        (f"a: {{key: {ONE}, models: daily}}", "list of names"),
        (f"a: {{key: {ONE}, models: []}}", "list of names"),
        (f"a: !!python/object {{key: {ONE}}}", "line 1: not valid YAML"),
        ("\n".join(f"{TEN}{i:04}" for i in range(1001)), "at most 1000"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_without_a_key(text: str, words: str) -> None:
    with pytest.raises(KeysError) as caught:
        parse(text)
    said = str(caught.value)
    assert words in said
    for secret in (ONE, TWO, TEN):
        assert secret not in said
    assert not re.search(r"\d{12}", said)
