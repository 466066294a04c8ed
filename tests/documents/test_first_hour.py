"""docs/first-hour.md shows what its commands print."""

from __future__ import annotations

from pathlib import Path

from tests.documents.session import BLOCK, PAGE, commands, played, served, steady


def test_the_first_hour_runs_as_it_stands_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert sum(len(commands(block)) for block in BLOCK.findall(page)) >= 15
    with served(tmp_path) as place:
        now = played(page, place)
    stale = "make pictures writes it anew"
    for written, printed in zip(BLOCK.findall(page), BLOCK.findall(now), strict=True):
        assert steady(written) == steady(printed), stale
