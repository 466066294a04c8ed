"""The plan names the field that forces each action, with what it was and what it is."""

from __future__ import annotations

from reconciler.changes import Change, changes
from tests.reconciler.spec.reading import MINIMAL, load


def between(old: str, new: str) -> list[tuple[str, str, str, str]]:
    found = changes(load(old).spec, load(new).spec)
    return [(change.path, change.old, change.new, change.change) for change in found]


def test_nothing_changed_means_no_changes() -> None:
    assert between(MINIMAL, MINIMAL + "# a comment\nsuspend: false\n") == []


def test_each_field_is_named_with_its_class_in_the_words_of_the_file() -> None:
    new = MINIMAL.replace("source: ./demo", "source: ./other, idle_timeout: 5m, sampling: {top_k: 4}")
    more = "server: {port: 99, host: 127.0.0.1}\nstate: {path: /var/lmx}\nmemory: {budget: 75%}\n"
    assert between(MINIMAL, new + more) == [
        ("models.demo.source", "./demo", "./other", "reload"),
        ("models.demo.idle_timeout", "30m", "5m", "hot"),
        ("models.demo.sampling.top_k", "0", "4", "hot"),
        ("memory.budget", "auto", "75%", "hot"),
        ("server.host", "0.0.0.0", "127.0.0.1", "rebind"),
        ("server.port", "1234", "99", "rebind"),
        ("state.path", "~/.lmx", "/var/lmx", "restart"),
    ]


def test_a_model_that_comes_or_goes_is_one_change() -> None:
    two = MINIMAL + "  mini: {source: org/mini, priority: 3}\n"
    assert between(MINIMAL, two) == [("models.mini", "absent", "org/mini", "reload")]
    assert between(two, MINIMAL) == [("models.mini", "org/mini", "absent", "reload")]


def test_lists_and_flags_are_written_as_yaml_writes_them() -> None:
    new = MINIMAL.replace("./demo", "./demo, aliases: [a, b], trust_remote_code: true")
    assert between(MINIMAL, new) == [
        ("models.demo.aliases", "[]", "[a, b]", "hot"),
        ("models.demo.trust_remote_code", "false", "true", "reload"),
    ]


def test_a_variable_that_changed_is_shown_by_its_name() -> None:
    text = MINIMAL + "name: ${LMX_NAME}\n"
    old, new = load(text, {"LMX_NAME": "a"}).spec, load(text, {"LMX_NAME": "b"}).spec
    assert changes(old, new) == (Change("name", "${LMX_NAME}", "${LMX_NAME}", "hot"),)
