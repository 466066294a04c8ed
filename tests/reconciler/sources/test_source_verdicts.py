"""What conditions say of a repository that is followed, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.source_verdicts import behind, ready, verified
from reconciler.source_view import SourceView, Trouble

ONE, TWO = "1" * 40, "2" * 40
FINE = SourceView("git", "lmx.yaml", revision=ONE, head=ONE, url="https://h/x", ref="main", last_checked=5.0)
OUT = Trouble("GitUnreachable", "it does not answer", 0.0)
BAD = Trouble("SpecInvalid", "commit 222222222222: no", 0.0)
UNSIGNED = Trouble("NotVerified", "commit 222222222222 is not taken: it is not signed", 0.0)
ASKED = replace(FINE, asks_signature=True, verified=True, signer="ann")


@pytest.mark.parametrize(
    ("view", "is_ready", "is_verified", "is_behind"),
    [
        (None, ("True", "SourceRead"), ("Unknown", "LocalFile"), None),
        (SourceView("file", "lmx.yaml"), ("True", "SourceRead"), ("Unknown", "LocalFile"), None),
        (FINE, ("True", "Followed"), ("Unknown", "NotAsked"), None),
        (ASKED, ("True", "Followed"), ("True", "Verified"), None),
        (replace(ASKED, verified=False), ("True", "Followed"), ("False", "NotVerified"), None),
        (replace(ASKED, failed=OUT), ("False", "GitUnreachable"), ("True", "Verified"), None),
        (replace(ASKED, refused=BAD), ("False", "SpecInvalid"), ("True", "Verified"), "SpecInvalid"),
        (replace(ASKED, refused=UNSIGNED), ("False", "NotVerified"), ("False", "NotVerified"), "NotVerified"),
        (
            replace(ASKED, revision=None, verified=None, head=None, last_checked=None),
            ("Unknown", "NotLooked"),
            ("Unknown", "NothingTaken"),
            "NothingFetched",
        ),
        (
            replace(FINE, revision=None, head=None, failed=OUT),
            ("False", "GitUnreachable"),
            ("Unknown", "NotAsked"),
            "NothingFetched",
        ),
    ],
)
def test_a_view_and_its_conditions(
    view: SourceView | None, is_ready: tuple[str, str], is_verified: tuple[str, str], is_behind: str | None
) -> None:
    assert ready(view, None)[:2] == is_ready
    assert verified(view)[:2] == is_verified
    assert (behind(view) or (None,))[0] == is_behind
    assert ready(view, "lmx.yaml is not there")[:2] == ("False", "SourceUnreadable")


def test_an_outage_tells_since_when_and_what_runs_on() -> None:
    assert ready(replace(FINE, failed=OUT), None)[2] == (
        f"since 1970-01-01T00:00:00Z: it does not answer; {ONE[:12]} runs on"
    )
    assert ready(replace(FINE, revision=None, failed=OUT), None)[2].endswith(
        "; the local file alone is served"
    )
