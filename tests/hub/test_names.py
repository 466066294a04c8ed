"""Names from YAML, requests and listings: none becomes a path outside the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.hub import cache


@pytest.mark.parametrize("repo", ["gpt2", "org/name", "Org-1/My_model.v2-4bit", "a/b"])
def test_the_hubs_own_names_are_accepted(repo: str) -> None:
    assert cache.check_repo(repo) == repo


@pytest.mark.parametrize(
    "repo",
    [
        "", "/", "a/", "/b", "../b", "a/..", "a/b/c", ".a/b", "a/b.", "-a/b", "a--b/c", "a..b/c", "a/b.git",
        "a b/c", "org/naïve", "org/na\nme", "org/name\n", "http://x/y", "a/" + "b" * 97, "a\\b", "~/b",
    ],
)  # fmt: skip
def test_anything_else_is_not_a_repo(repo: str) -> None:
    with pytest.raises(cache.BadName):
        cache.check_repo(repo)


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "a-b_c.d/e f.txt", "größe.json"])
def test_plain_relative_names_are_accepted(name: str) -> None:
    assert cache.check_file_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../config.json", "a/../../b", "a/..", "/etc/x", "a//b", "./a", "a/", "a\\..\\b",
        "C:x", "a\x00b", "a\nb", "a" * 401,
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_not(name: str) -> None:
    with pytest.raises(cache.BadName):
        cache.check_file_name(name)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "1f2e3d4", "a" * 40])
def test_branches_and_commits_are_revisions(revision: str) -> None:
    assert cache.check_revision(revision) == revision


@pytest.mark.parametrize(
    "revision", ["", "..", "../x", "a/../b", "/a", "a//b", "-x", "a b", "a" * 200, "x\n"]
)
def test_other_texts_are_not_revisions(revision: str) -> None:
    with pytest.raises(cache.BadName):
        cache.check_revision(revision)


@pytest.mark.parametrize("etag", ["", "../x", "abc", "g" * 40, "A" * 64, "a" * 41])
def test_only_hashes_become_blob_names(etag: str) -> None:
    with pytest.raises(cache.BadName):
        cache.check_blob(etag)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/c"}, "/c"),
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
    ],
)
def test_the_cache_lies_where_the_hubs_own_client_looks(environment: dict[str, str], folder: str) -> None:
    assert cache.cache_folder(environment) == Path(folder)


def test_without_settings_it_lies_in_the_home_folder() -> None:
    assert cache.cache_folder({}) == Path.home() / ".cache/huggingface/hub"


@pytest.mark.parametrize(
    ("folder", "repo"),
    [
        ("models--org--name", "org/name"),
        ("models--gpt2", "gpt2"),
        ("datasets--org--name", None),
        ("models--a--b--c", None),
        (".locks", None),
        ("models--..--x", None),
    ],
)
def test_a_cache_folder_names_its_repo(folder: str, repo: str | None) -> None:
    assert cache.repo_of(folder) == repo
