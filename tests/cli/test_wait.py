"""`lmx wait`: what a deploy script may rely on."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from appliance.cli.failure import REJECTED, CliError
from appliance.cli.wait import Goal, unmet
from tests.cli.standin import Appliance, Lmx, Reply, status_document

CONTENT = "c" * 64
RECONCILING = {"Ready": ("False", "ActiveNotLoaded", "demo is loading")}


def attempted(outcome: str, message: str = "", digest: str = CONTENT) -> dict[str, Any]:
    return {"content_digest": digest, "outcome": outcome, "message": message, "at": 0}


def test_reached_at_once(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("wait", "--for", "Ready")
    assert (result.code, result.out) == (0, "Ready=True, generation 3\n")


def test_it_waits_until_the_condition_holds(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(conditions=RECONCILING), status_document())
    assert lmx("wait").code == 0
    assert len(appliance.asked) == 2


def test_a_condition_may_be_wanted_false(lmx: Lmx, appliance: Appliance) -> None:
    assert lmx("wait", "--for", "degraded=false").code == 0


def test_when_the_time_runs_out_it_says_what_is_missing_and_exits_3(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(conditions=RECONCILING))
    result = lmx("wait", "--timeout", "300ms")
    assert result.code == 3
    assert "Ready is False: demo is loading" in result.err


def test_an_appliance_that_never_starts_is_named_when_the_time_runs_out(lmx: Lmx) -> None:
    result = lmx("wait", "--timeout", "300ms", "--url", "127.0.0.1:9")
    assert result.code == 3
    assert "no appliance answers at http://127.0.0.1:9" in result.err


def test_with_the_digest_of_the_file_it_waits_for_that_content(lmx: Lmx, appliance: Appliance) -> None:
    digest = hashlib.sha256((lmx.folder / "lmx.yaml").read_bytes()).hexdigest()
    appliance.on(
        "GET /status",
        status_document(),
        status_document(last_attempted=attempted("pending", digest=digest)),
        status_document(last_attempted=attempted("applied", digest=digest)),
    )
    assert lmx("wait", "--digest", "file").code == 0
    assert len(appliance.asked) == 3


def test_a_rejected_push_exits_4_with_the_reason_although_the_old_model_is_ready(
    lmx: Lmx, appliance: Appliance
) -> None:
    appliance.on("GET /status", status_document(last_attempted=attempted("rejected", "lmx.yaml:3:1: no")))
    result = lmx("wait", "--digest", CONTENT)
    assert result.code == 4
    assert "lmx.yaml:3:1: no" in result.err


@pytest.mark.parametrize(
    "words",
    [["--for", "Happy"], ["--for", "Ready=perhaps"], ["--timeout", "5"], ["--digest", "abc"]],
    ids=" ".join,
)
def test_what_it_cannot_wait_for_is_one_line_and_exit_1(
    lmx: Lmx, appliance: Appliance, words: list[str]
) -> None:
    result = lmx.inside("wait", *words)
    assert result.code == 1
    assert result.err.count("\n") == 1


def test_an_error_of_the_appliance_is_not_waited_out(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", Reply({"error": {"message": "no", "code": "forbidden"}}, 403))
    assert lmx("wait").code == 1


# --- the decision itself


def test_ready_does_not_count_while_the_newest_generation_has_not_been_looked_at() -> None:
    document = status_document(generation=3)
    document["generation"] = 4
    assert "not been looked at" in unmet(Goal("Ready", "True"), document)


def test_with_a_digest_ready_does_not_count_while_the_old_model_stands_in() -> None:
    document = status_document(
        conditions={"Synced": ("False", "Swapping", "demo answers until daily is ready")}
    )
    assert unmet(Goal("Ready", "True"), document) == ""
    assert "demo answers until daily is ready" in unmet(Goal("Ready", "True", CONTENT), document)


@pytest.mark.parametrize("outcome", ["applied", "pending"])
def test_content_that_can_never_run_is_told_at_once(outcome: str) -> None:
    document = status_document(
        last_attempted=attempted(outcome),
        conditions={
            "Synced": ("False", "LoadFailed", "models.daily: no weights"),
            "Stalled": ("True", "LoadFailed", "models.daily: no weights"),
        },
    )
    with pytest.raises(CliError, match="no weights") as caught:
        unmet(Goal("Ready", "True", CONTENT), document)
    assert caught.value.code == REJECTED


def test_what_stalled_the_generation_before_is_not_held_against_new_content() -> None:
    document = status_document(
        generation=3,
        last_attempted=attempted("pending"),
        conditions={"Stalled": ("True", "LoadFailed", "models.daily: no weights")},
    )
    document["generation"] = 4
    assert "pending" in unmet(Goal("Ready", "True", CONTENT), document)


COMMIT = "3f2a91c0" * 5


def following(revision: str, head: str, **changes: Any) -> dict[str, Any]:
    return status_document(source={"kind": "git", "revision": revision, "head": head}, **changes)


def test_a_commit_is_waited_for_until_it_runs(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", following("a" * 40, "a" * 40), following(COMMIT, COMMIT))
    assert lmx("wait", "--digest", COMMIT[:12]).code == 0
    assert len(appliance.asked) == 2


def test_a_commit_that_was_refused_exits_4_with_the_reason(lmx: Lmx, appliance: Appliance) -> None:
    rejected = attempted("rejected", "commit 3f2a91c03f2a is not taken: it is not signed", digest=COMMIT)
    appliance.on("GET /status", following("a" * 40, COMMIT, last_attempted=rejected))
    result = lmx("wait", "--digest", COMMIT)
    assert result.code == REJECTED
    assert "that commit was refused: commit 3f2a91c03f2a is not taken: it is not signed" in result.err


def test_a_commit_of_a_machine_that_follows_none_is_an_error(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("wait", "--digest", COMMIT)
    assert (result.code, "follows no repository" in result.err) == (1, True)


def test_content_that_was_replaced_by_newer_content_is_told_at_once() -> None:
    document = status_document(last_attempted=attempted("applied", digest="f" * 64))
    assert unmet(Goal("Ready", "True", CONTENT), document) == "that content has not been seen yet"
    with pytest.raises(CliError, match="newer content"):
        unmet(Goal("Ready", "True", CONTENT), document, seen_before=True)
