"""The random pushes: a short form with every test run, 500 with `make gitops`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gitops.campaign import Campaign
from tests.gitops.remote import needs_git

pytestmark = needs_git


def pushed(folder: Path, seed: int, pushes: int) -> Campaign:
    campaign = Campaign(folder, seed)
    try:
        campaign.up()
        campaign.run(pushes)
    finally:
        campaign.machine.close()
    return campaign


def test_random_pushes_end_on_the_newest_acceptable_commit(tmp_path: Path) -> None:
    pushed(tmp_path, seed=11, pushes=25)


@pytest.mark.gitops
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1])
def test_five_hundred_random_pushes(tmp_path: Path, seed: int) -> None:
    campaign = pushed(tmp_path, seed, pushes=500)
    print(campaign.counts, f"{campaign.callers.answered} requests answered")
