"""The index says what a plain list of texts would say, and costs next to nothing."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.prompt_cache import index as index_module
from appliance.prompt_cache import keys
from appliance.prompt_cache.format import Record
from appliance.prompt_cache.index import Entry, Index, common, spell
from appliance.prompt_cache.keys import BLOCK

Text = tuple[int, ...]
NAMESPACE = "0" * 32
# Pieces of few lengths and letters: texts often share whole blocks, parts of one, or everything.
PIECES = st.tuples(st.integers(1, 2), st.sampled_from([1, 37, BLOCK - 1, BLOCK, 2 * BLOCK]))
TEXTS = st.lists(PIECES, min_size=1, max_size=5).map(
    lambda pieces: tuple(token for token, count in pieces for _ in range(count))
)
SCOPES = st.sampled_from(["", "other"])


def keep(index: Index, scope: str, text: Text, now: float, *, nbytes: int = 100) -> list[Entry]:
    """All blocks of a text, and for a stateful index its state, as the engine keeps them."""
    made: list[Entry] = []
    last = index.root(scope)
    for at in range(0, len(text) - len(text) % BLOCK, BLOCK):
        last, _ = index.block(last, spell(text[at : at + BLOCK]))
        made.append(last)
    rest = spell(text[last.end :])
    if index.stateful:
        made.append(index.state(last, rest))
    elif rest:
        made.append(index.block(last, rest)[0])
    for entry in made:
        index.hold(entry, "payload", nbytes)
        entry.used = now
    return made


class Forgetful(RuleBasedStateMachine):
    """Against a list of all kept beginnings of texts, walked in full for each question."""

    stateful = False

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(NAMESPACE, self.stateful)
        self.blocks: dict[tuple[str, Text], Entry] = {}  # by the text up to their ends
        self.states: dict[tuple[str, Text], Entry] = {}
        self.now = 0.0

    # -- the plain model -----------------------------------------------------------------------------

    def usable(self, scope: str, text: Text) -> bool:
        entry = self.blocks.get((scope, text))
        return entry is not None and (entry.payload is not None or entry.disk > 0)

    def forget_the_gone(self) -> None:
        for held in (self.blocks, self.states):
            for name in [name for name, entry in held.items() if not entry.kept]:
                del held[name]

    def best(self, scope: str, text: Text, limit: int) -> int:
        at = 0
        while at + BLOCK <= limit and self.usable(scope, text[: at + BLOCK]):
            at += BLOCK
        if self.stateful:
            ends = [
                len(name)
                for (whose, name), entry in self.states.items()
                if whose == scope and len(name) <= limit and name == text[: len(name)] and entry.usable
            ]
            return max((end for end in ends if end - end % BLOCK <= at), default=0)
        behind = [
            name
            for whose, name in self.blocks
            if whose == scope and start(name) == at and name[:at] == text[:at] and self.usable(whose, name)
        ]
        return max([at, *(shared(name, text[:limit]) for name in behind)])

    # -- what happens --------------------------------------------------------------------------------

    @rule(scope=SCOPES, text=TEXTS)
    def keep_a_text(self, scope: str, text: Text) -> None:
        self.now += 1
        last = self.index.root(scope)
        for at in range(0, len(text), BLOCK):
            upto = text[: at + BLOCK]
            if len(upto) == at + BLOCK:
                last, _ = self.index.block(last, spell(upto[at:]))
                self.take(self.blocks, scope, upto, last)
            elif not self.stateful:
                longer = [name for whose, name in self.blocks if whose == scope and name[: len(upto)] == upto]
                entry, _ = self.index.block(last, spell(upto[at:]))
                if longer:
                    assert entry.tokens.startswith(spell(upto[at:]))
                else:
                    self.take(self.blocks, scope, upto, entry)
        if self.stateful:
            rest = text[len(text) - len(text) % BLOCK :]
            self.take(self.states, scope, text, self.index.state(last, spell(rest)))
        self.forget_the_gone()

    def take(self, held: dict[tuple[str, Text], Entry], scope: str, upto: Text, entry: Entry) -> None:
        if held is self.blocks:
            for name in list(held):
                if name[0] == scope and start(name[1]) == entry.start and name[1] != upto:
                    if upto[: len(name[1])] == name[1]:
                        assert not held.pop(name).alive  # the longer one has taken its place
        self.index.hold(entry, "payload", 100)
        entry.used = self.now
        held[scope, upto] = entry

    @rule(scope=SCOPES, text=TEXTS, short=st.integers(0, 300))
    def match(self, scope: str, text: Text, short: int) -> None:
        limit = max(0, len(text) - short)
        found = self.index.match(scope, spell(text), limit)
        assert found.tokens == self.best(scope, text, limit)
        at = 0
        for entry in found.blocks:
            assert entry.start == at
            assert entry.usable
            at = entry.end
        assert (found.state.end if found.state else min(at, found.tokens)) == found.tokens

    @precondition(lambda self: self.index.memory)
    @rule()
    def give_way(self) -> None:
        held = [*self.blocks.values(), *self.states.values()]
        ends = [
            entry
            for entry in held
            if entry.payload is not None
            and not any(other.payload is not None and other.parent is entry for other in held)
        ]
        entry = self.index.victim()
        assert entry in ends
        assert rank(entry) == min(map(rank, ends))
        disk = entry.disk
        self.index.release(entry)
        assert (entry.payload, entry.disk) == (None, disk)
        self.forget_the_gone()

    @rule(data=st.data())
    def write_or_lose(self, data: st.DataObject) -> None:
        held = [*self.blocks.values(), *self.states.values()]
        if not held:
            return
        entry = data.draw(st.sampled_from(held))
        action = data.draw(st.sampled_from(["write", "write", "lose", "remove", "pin", "use"]))
        if action == "write":
            self.index.written(entry, 120)
        elif action == "lose":
            payload = entry.payload
            self.index.lost(entry)
            assert (entry.payload, entry.disk) == (payload, 0)
        elif action == "remove":
            self.index.remove(entry)
        elif action == "use":
            self.now += 1
            self.index.use(entry.path, self.now)
        else:
            self.index.pin(entry.path, 1 if not entry.pins else -1)
        self.forget_the_gone()

    @invariant()
    def the_books_are_right(self) -> None:
        held = [*self.blocks.values(), *self.states.values()]
        assert self.index.memory == sum(entry.memory for entry in held)
        assert self.index.disk == sum(entry.disk for entry in held)
        for entry in held:
            assert self.index.get(entry.key) is entry
        if not held:
            assert len(self.index) == 0  # nothing is left behind of what is gone

    def teardown(self) -> None:
        for entry in [*self.blocks.values(), *self.states.values()]:
            self.index.remove(entry)
        assert len(self.index) == self.index.memory == self.index.disk == 0


class ForgetfulStates(Forgetful):
    stateful = True


def start(text: Text) -> int:
    return (len(text) - 1) // BLOCK * BLOCK


def shared(one: Text, other: Text) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def rank(entry: Entry) -> tuple[bool, float, int]:
    return entry.pins > 0, entry.used, -entry.end


TestDense = Forgetful.TestCase
TestStateful = ForgetfulStates.TestCase
TestDense.settings = TestStateful.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("stateful", [False, True])
def test_what_a_scan_finds_is_found_again_and_orphans_are_not_kept(stateful: bool) -> None:
    before = Index(NAMESPACE, stateful)
    text = tuple(range(3 * BLOCK + 40))
    made = keep(before, "mine", text, 1.0)
    records = [(record(entry), 500, 7.0) for entry in made]
    after = Index(NAMESPACE, stateful)
    assert after.fill(reversed(records)) == []
    assert after.match("mine", spell(text), len(text)).tokens == len(text)
    assert after.match("", spell(text), len(text)).tokens == 0
    assert after.disk == 500 * len(made)
    torn = Index(NAMESPACE, stateful)
    assert torn.fill([records[0], *records[2:]]) == [entry.key for entry in made[2:]]
    assert torn.match("mine", spell(text), len(text)).tokens == (0 if stateful else BLOCK)


def test_of_two_files_where_one_begins_the_other_the_scan_keeps_the_longer() -> None:
    before = Index(NAMESPACE, False)
    (short,) = keep(before, "", (1, 2, 3), 1.0)
    (long,) = keep(before, "", (1, 2, 3, 4), 1.0)
    for order in ([short, long], [long, short]):
        after = Index(NAMESPACE, False)
        assert after.fill([(record(entry), 100, 0.0) for entry in order]) == [short.key]
        assert after.match("", spell([1, 2, 3, 9]), 4).tokens == 3


def record(entry: Entry) -> Record:
    assert entry.parent is not None
    assert entry.kind != "root"
    return Record(entry.key, entry.parent.key, entry.kind, entry.start, entry.tokens, entry.scope)


def test_a_look_up_among_thousands_of_forks_takes_a_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(NAMESPACE, False)
    trunk = tuple(range(100_000 - 100_000 % BLOCK))
    keep(index, "", trunk, 1.0)
    for fork in range(4000):  # all of them begin alike
        keep(index, "", (*range(100), 500_000 + fork, *range(100)), 1.0)
        keep(index, "", (*trunk[: 10 * BLOCK], *range(100), 500_000 + fork), 1.0)
    asked: dict[str, int] = {"spelling": 0, "common": 0}

    def counted(name: str) -> Any:
        real = getattr(index_module, name)

        def count(*args: Any) -> Any:
            asked[name] += 1
            return real(*args)

        return count

    for name in asked:
        monkeypatch.setattr(index_module, name, counted(name))
    blocks = len(trunk) // BLOCK
    assert index.match("", spell((*trunk, 1)), len(trunk)).tokens == len(trunk)
    assert asked["spelling"] <= 2 * blocks + 2 * 13  # one child each, and two nodes with 4,001
    assert asked["common"] <= 2
    assert index.match("", spell((*range(100), 502_000, *range(50))), 151).tokens == 151


def test_the_index_costs_less_than_two_percent_of_what_it_indexes() -> None:
    nbytes = (
        2 * 2 * 2 * 16 * 4 * BLOCK
    )  # of the tests' tiny Qwen3; a real model's block is a hundred times that
    texts = [tuple(range(first, first + 40 * BLOCK)) for first in range(0, 1_000_000, 20_000)]
    tracemalloc.start()
    try:
        index = Index(NAMESPACE, False)
        for text in texts:
            keep(index, "", text, 1.0, nbytes=nbytes)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert index.memory == len(texts) * 40 * nbytes
    assert held < 0.02 * index.memory


def test_what_is_gone_leaves_nothing_in_the_order_of_giving_way() -> None:
    index = Index(NAMESPACE, False)
    for turn in range(5000):  # a text that grows by a token: each tail gives way to the next
        keep(index, "", tuple(range(1 + turn % BLOCK)), float(turn))
    assert len(index) == 1
    assert len(index._heap) <= 2 * len(index) + 65


def test_common_counts_whole_tokens_only() -> None:
    assert common(spell([1, 2, 3]), spell([1, 2, 3 + 2**24])) == 2  # three of its four bytes agree
    assert common(spell([1]), spell([])) == 0
    assert common(spell([7, 8]), spell([7, 8, 9])) == 2


def test_keys_tell_blocks_states_scopes_and_namespaces_apart() -> None:
    roots = {keys.root("a", ""), keys.root("a", "b"), keys.root("b", ""), keys.root("ab", "")}
    root = keys.root("a", "")
    tokens = spell([1, 2])
    assert (
        len({*roots, keys.block(root, tokens), keys.state(root, tokens), keys.block(root, spell([1]))}) == 7
    )
