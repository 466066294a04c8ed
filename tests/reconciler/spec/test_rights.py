"""What a file from Git may not say, and how the local file lets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import names
from reconciler.loader import SpecError, layers, load_text
from reconciler.loader.layers import Layer

ENV = {"LMX_WHERE": "/models/x", "LMX_KEYS": "secret", "LMX_TRUE": "true"}
VERIFY = {"allowed_signers": "signers"}
FORBIDDEN = {
    "skills: {clock: {python: 'tools:clock'}}": ("skills.clock", "skills"),
    "models: {m: {source: ./here}}": ("models.m.source", "local_paths"),
    "models: {m: {source: ../here}}": ("models.m.source", "local_paths"),
    "models: {m: {source: '${LMX_WHERE}'}}": ("models.m.source", "local_paths"),
    "models: {m: {source: a/b, adapter: ~/lora}}": ("models.m.adapter", "local_paths"),
    "models: {m: {source: a/b, template: {file: chat.jinja}}}": ("models.m.template.file", "local_paths"),
    "models: {m: {source: a/b, trust_remote_code: true}}": (
        "models.m.trust_remote_code",
        "trust_remote_code",
    ),
    "models: {m: {source: a/b, trust_remote_code: '${LMX_TRUE}'}}": (
        "models.m.trust_remote_code",
        "trust_remote_code",
    ),
    "models: {ours: {trust_remote_code: true}}": ("models.ours.trust_remote_code", "trust_remote_code"),
    "cache: {path: /tmp/elsewhere}": ("cache.path", "local_paths"),
    "server: {api_keys: {file: keys}}": ("server.api_keys", "key_files"),
    "server: {api_keys: {env: HOME}}": ("server.api_keys", "key_files"),
    "server: {api_keys: null}": ("server.api_keys", "key_files"),
    "name: x${LMX_KEYS}": ("name", "key_files"),
    "models: {m: {source: a/b, aliases: ['${LMX_KEYS}']}}": ("models.m.aliases[0]", "key_files"),
}


def pack(said: str, *, keys: bool = True, **git: Any) -> bytes:
    local = {
        "version": 1,
        "active": None,
        "models": {"ours": {"source": "./ours"}},
        "git": {"url": "https://git.example/fleet.git", **git},
        "server": {"api_keys": {"env": "LMX_KEYS"} if keys else None},
    }
    return layers.pack(
        [Layer("lmx.yaml", yaml.safe_dump(local).encode()), Layer("h/a.yaml", said.encode(), "git")]
    )


def problems(said: str, **git: Any) -> list[str]:
    try:
        load_text(pack(said, **git), path=Path("lmx.yaml"), env=ENV)
    except SpecError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("said", FORBIDDEN)
def test_it_is_refused_by_name_unless_verified_and_let(said: str) -> None:
    field, right = FORBIDDEN[said]
    others = [other for other in names.GIT_RIGHTS if other != right]
    for git in ({}, {"verify": VERIFY}, {"verify": VERIFY, "allow": others}):
        told = [line for line in problems(said, **git) if "a file from Git" in line]
        assert len(told) == 1
        assert told[0].startswith("git:h/a.yaml:1:")
        assert f": {field}: a file from Git may not " in told[0]
        assert told[0].endswith(f"git.verify, and {right} in git.allow")
        assert "secret" not in told[0]
    assert not [line for line in problems(said, verify=VERIFY, allow=[right]) if "a file from Git" in line]


def test_without_verify_no_permission_counts() -> None:
    found = problems("skills: {clock: {python: 'tools:clock'}}", allow=list(names.GIT_RIGHTS))
    assert any("a file from Git may not" in line for line in found)
    assert any("git.allow: counts only with git.verify" in line for line in found)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "git: {url: 'https://evil.example/x.git'}",
            "git: only a local file says which repository is followed",
        ),
        ("state: {path: /tmp/x}", "state.path: only a local file says where state lies"),
    ],
)
def test_some_things_are_never_git_s_to_say(said: str, told: str) -> None:
    found = problems(said, verify=VERIFY, allow=list(names.GIT_RIGHTS))
    assert any(told in line for line in found), found


@pytest.mark.parametrize(
    "said",
    [
        "name: fine",
        "git: null",
        "skills: {}",
        "models: {m: {source: a/b, trust_remote_code: false, template: {file: null}}}",
        "models: {m: {source: 'builtin:lmx-demo'}}",
        "active: ours\nmodels: {ours: {context: 512}}",
        "server: {port: 80, cors: []}\nstate: {events: 1d}\ncache: {disk: 1GiB}",
    ],
)
def test_the_usual_needs_no_permission(said: str) -> None:
    assert problems(said) == []


def test_that_no_keys_are_needed_may_be_said_where_none_are() -> None:
    data = pack("server: {api_keys: null}", keys=False)
    assert load_text(data, path=Path("lmx.yaml"), env=ENV).spec.server.api_keys is None


def test_git_s_null_does_not_take_the_local_git_away() -> None:
    spec = load_text(pack("git: null\nname: a"), path=Path("lmx.yaml"), env=ENV).spec
    assert spec.git is not None


def test_a_file_of_this_machine_may_say_all_of_it() -> None:
    text = "version: 1\nactive: null\nmodels: {m: {source: ./here, trust_remote_code: true}}\n"
    assert load_text(text, path=Path("lmx.yaml"), env={}).spec.models["m"].trust_remote_code
