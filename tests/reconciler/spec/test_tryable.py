"""What a caller may try, and what only the file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler import tryable
from reconciler.loader import SpecError, load_text
from reconciler.loader.layers import MAGIC
from reconciler.spec import Spec

FILE = """
version: 1
active: a
models:
  a: {source: org/a, revision: abc1234, adapter: ./lora, template: {file: chat.jinja}}
  b: {source: org/b, trust_remote_code: true, aliases: ["${LMX_ALIAS}"]}
server: {port: 1300}
skills: {look: {python: "tools:look"}}
"""
ENV = {"LMX_ALIAS": "hidden", "LMX_OTHER": "secret"}


def spec(text: str) -> Spec:
    return load_text(text, path=Path("lmx.yaml"), env=ENV).spec


def tried(*changes: tuple[str, str]) -> list[str]:
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return tryable.refusals(spec(FILE), spec(text))


@pytest.mark.parametrize(
    "change",
    [
        ("active: a", "active: b"),
        ("active: a", "active: null"),
        ("revision: abc1234,", "revision: abc1234, context: 4096, kv_bits: 8, residency: loaded,"),
        ("adapter: ./lora, ", ""),
        (", template: {file: chat.jinja}", ""),
        ("trust_remote_code: true, ", ""),
        ("  b: {", "  c: {source: org/a, revision: abc1234}\n  b: {"),
        (
            "version: 1",
            "version: 1\nmemory: {budget: 50%}\nqueue: {depth: 3}\ncache: {memory: 5%, disk: 1GiB}",
        ),
    ],
)
def test_what_the_file_names_may_be_arranged(change: tuple[str, str]) -> None:
    assert tried(change) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("source: org/a", "source: org/new"), "models.a.source"),
        (("source: org/b", "source: ./b"), "models.b.source"),
        (("revision: abc1234", "revision: abc1235"), "models.a.revision"),
        (("revision: abc1234, ", ""), "models.a.revision"),
        (("adapter: ./lora", "adapter: org/lora"), "models.a.adapter"),
        (("file: chat.jinja", "file: /etc/passwd"), "models.a.template.file"),
        (("adapter: ./lora", "trust_remote_code: true"), "models.a.trust_remote_code"),
        (("port: 1300", "port: 1301"), "server.port"),
        (("port: 1300", "port: 1300, admin: key, api_keys: {file: k}"), "server.api_keys"),
        (("tools:look", "os:system"), "skills.look.python"),
        (("version: 1", "version: 1\nname: ${LMX_OTHER}"), "name"),
        (("version: 1", "version: 1\nstate: {path: ./x}"), "state.path"),
        (("version: 1", "version: 1\ncache: {path: ./x}"), "cache.path"),
        (("version: 1", "version: 1\ncache: {share: key}"), "cache.share"),
        (("version: 1", "version: 1\nsuspend: true"), "suspend"),
        (("${LMX_ALIAS}", "${LMX_OTHER}"), "models.b.aliases.0"),
    ],
)
def test_what_only_the_file_may_say_is_named_and_no_secret_with_it(
    change: tuple[str, str], path: str
) -> None:
    found = tried(change)
    assert [line for line in found if line.startswith(f"{path}: ")], found
    assert "secret" not in " ".join(found)


def test_an_earlier_spec_keeps_what_only_the_file_may_say_now() -> None:
    before = spec(FILE)
    file = spec(FILE.replace("port: 1300", "port: 1301").replace("active: a", "active: b"))
    made, left = tryable.carried_over(file, before)
    assert (made.active, made.server.port) == ("a", 1301)
    assert [change.path for change in left] == ["server.port"]
    assert (made.models, made.unexpanded) == (before.models, before.unexpanded)
    assert before.server.port == 1300
    trusting = spec(FILE.replace("revision: abc1234", "trust_remote_code: true"))
    assert tryable.newly_trusted(file, trusting)[0].startswith("models.a.trust_remote_code: ")


@pytest.mark.parametrize(
    "about",
    [
        '{"name": "a", "origin": "local", "broken": "", "data": -16}',
        '{"name": 7, "origin": "local", "broken": "", "data": 0}',
        '{"name": "a", "origin": "elsewhere", "broken": "", "data": 0}',
        '{"name": "a", "data": true}',
        "[]",
        "7",
        "{",
    ],
)
def test_a_pack_that_a_client_made_up_is_refused(about: str) -> None:
    with pytest.raises(SpecError):
        load_text(MAGIC + b"#@ " + about.encode() + b"\n\n", path=Path("x.yaml"), env={})
