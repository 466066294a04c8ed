"""Which commit is taken, on histories of every shape: a model of the branch against the rule."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.sources.choosing import MOST, Choice, Refusal, choose

BAD = {"bad", "unsigned"}


@dataclass
class Branch:
    """Commits by number, each with its parent and its kind; `head` moves with pushes."""

    parents: list[int | None] = field(default_factory=lambda: [None])
    kinds: list[str] = field(default_factory=lambda: ["good"])
    head: int = 0

    def push(self, kind: str) -> None:
        self.parents.append(self.head)
        self.kinds.append(kind)
        self.head = len(self.kinds) - 1

    def ancestors(self, commit: int | None) -> list[int]:
        """The commit and all before it, newest first."""
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.parents[commit]
        return found


def look(branch: Branch, current: int | None, *, fast_forward_only: bool = True) -> tuple[int | None, Choice]:
    """What runs after a look, as the follower drives the rule."""
    line = branch.ancestors(branch.head)
    relation = "same" if branch.head == current else "after" if current in line else "elsewhere"
    if relation == "after" and current is not None:
        line = line[: line.index(current)]
    elif relation == "elsewhere" and current is not None:
        line = line[:1]
    deciding = choose(
        None if current is None else str(current),
        relation,  # type: ignore[arg-type]
        [str(commit) for commit in line][:MOST],
        fast_forward_only=fast_forward_only,
    )
    try:
        commit = next(deciding)
        while True:
            kind = branch.kinds[int(commit)]
            commit = deciding.send(Refusal(commit, kind, kind) if kind in BAD else None)
    except StopIteration as stop:
        choice: Choice = stop.value
    return (current if choice.take is None else int(choice.take)), choice


KINDS = st.sampled_from(["good", "good", "bad", "unsigned"])
# What happens to the branch; a number puts it on another commit, as a forced push does.
STEPS = st.lists(st.one_of(KINDS, st.just("look"), st.integers(0, 30)), max_size=40)


def newest_good(branch: Branch, current: int | None) -> int | None:
    """By its definition, and not as the rule finds it."""
    line = branch.ancestors(branch.head)
    if current is not None and current not in line:
        return current
    after = line if current is None else line[: line.index(current)]
    return next((commit for commit in after if branch.kinds[commit] not in BAD), current)


@settings(deadline=None)
@given(STEPS, st.booleans())
def test_what_runs_is_the_newest_acceptable_commit_after_what_ran(
    steps: list[str | int], begun: bool
) -> None:
    branch, current = Branch(), 0 if begun else None
    for step in [*steps, "look"]:
        if step == "look":
            expected = newest_good(branch, current)
            current, choice = look(branch, current)
            assert current == expected
            assert (choice.refused is None) == (current == branch.head)
        elif isinstance(step, int):
            branch.head = min(step, len(branch.kinds) - 1)
        else:
            branch.push(step)


@settings(deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=50), st.data())
def test_when_somebody_looks_makes_no_difference(kinds: list[str], data: st.DataObject) -> None:
    """Forty machines, each looking at its own moments, end on the same commit."""
    ends = set()
    for _ in range(3):
        branch, current = Branch(), 0
        for kind in kinds:
            branch.push(kind)
            if data.draw(st.booleans()):
                current = look(branch, current)[0] or 0
        ends.add(look(branch, current)[0])
    assert len(ends) == 1


@settings(deadline=None)
@given(STEPS)
def test_a_rewritten_branch_is_followed_only_where_that_is_allowed(steps: list[str | int]) -> None:
    branch, strict, loose = Branch(), 0, 0
    for step in steps:
        if step == "look":
            before = strict
            strict, choice = look(branch, strict)  # type: ignore[assignment]
            assert before in branch.ancestors(strict)
            if before not in branch.ancestors(branch.head):
                assert choice.refused is not None
                assert choice.refused.reason == "NotFastForward"
            loose, _ = look(branch, loose, fast_forward_only=False)  # type: ignore[assignment]
            if branch.kinds[branch.head] not in BAD:
                assert loose == branch.head
        elif isinstance(step, int):
            branch.head = min(step, len(branch.kinds) - 1)
        else:
            branch.push(step)


@settings(deadline=None)
@given(st.integers(MOST, MOST + 20))
def test_a_long_row_of_bad_commits_ends_the_search(count: int) -> None:
    branch = Branch()
    branch.push("good")
    for _ in range(count):
        branch.push("bad")
    current, choice = look(branch, 0)
    assert current == 0
    assert choice.refused == Refusal(str(branch.head), "bad", "bad")
