"""`${LMX_*}` is replaced, nothing else is, and no value from the environment is ever shown."""

from __future__ import annotations

import pytest

from reconciler import fields
from reconciler.changes import changes
from tests.reconciler.spec.reading import MINIMAL, load, problem


@pytest.mark.parametrize("text", ["port: ${LMX_PORT}", "port: '${LMX_PORT}'", 'port: "8${LMX_REST}"'])
def test_a_reference_may_be_the_whole_value_or_a_part(text: str) -> None:
    loaded = load(f"{MINIMAL}server:\n  {text}\n", {"LMX_PORT": "8080", "LMX_REST": "080"})
    assert loaded.spec.server.port == 8080


def test_every_kind_of_value_may_come_from_the_environment() -> None:
    env = {"LMX_A": "demo", "LMX_B": "true", "LMX_C": "5m", "LMX_D": "0.5", "LMX_E": "auto", "LMX_F": "123"}
    spec = load(
        """\
        version: 1
        name: ${LMX_F}
        active: ${LMX_A}
        suspend: ${LMX_B}
        models:
          demo:
            source: ./${LMX_A}
            idle_timeout: ${LMX_C}
            context: ${LMX_E}
            aliases: ["${LMX_F}"]
            sampling: {temperature: "${LMX_D}", force: "${LMX_B}"}
        """,
        env,
    ).spec
    model = spec.models["demo"]
    assert (spec.name, spec.active, spec.suspend, model.source) == ("123", "demo", True, "./demo")
    assert (model.idle_timeout, model.context, model.aliases) == (300.0, "auto", ("123",))
    assert (model.sampling.temperature, model.sampling.force) == (0.5, True)
    assert type(spec.name) is str


def test_a_plain_dollar_is_a_dollar_and_two_escape_a_brace() -> None:
    assert load(MINIMAL + "name: a$b$$c\n").spec.name == "a$b$$c"
    assert load(MINIMAL + "name: $${HOME}\n").spec.name == "${HOME}"


def test_what_a_variable_holds_is_not_looked_at_again() -> None:
    assert load(MINIMAL + "name: ${LMX_A}\n", {"LMX_A": "${LMX_B}"}).spec.name == "${LMX_B}"


def test_messages_do_not_show_what_a_variable_holds() -> None:
    line = problem(MINIMAL + "server: {port: '${LMX_PORT}'}\n", {"LMX_PORT": "hunter2"})
    assert (
        line == "lmx.yaml:5:16: server.port: expected a whole number, like 1234; found what ${LMX_PORT} holds"
    )
    line = problem(MINIMAL + "queue: {timeout: '${LMX_T}'}\n", {"LMX_T": "31415"})
    assert "31415" not in line
    line = problem(MINIMAL.replace("active: demo", "active: ${LMX_A}"), {"LMX_A": "hunter2"})
    assert "hunter2" not in line


def test_values_are_shown_as_the_file_says_them() -> None:
    text = MINIMAL + "server: {port: '${LMX_PORT}', allowed_hosts: [a, '${LMX_HOST}']}\n"
    old = load(text, {"LMX_PORT": "80", "LMX_HOST": "b"}).spec
    new = load(text.replace("'${LMX_PORT}'", "81"), {"LMX_HOST": "b"}).spec
    shown = fields.plain(old, old.unexpanded)
    assert shown["server"]["port"] == "${LMX_PORT}"
    assert shown["server"]["allowed_hosts"] == ["a", "${LMX_HOST}"]
    (change,) = changes(old, new)
    assert (change.path, change.old, change.new, change.change) == (
        "server.port",
        "${LMX_PORT}",
        "81",
        "rebind",
    )


def test_the_digest_is_that_of_the_file_and_not_of_the_environment() -> None:
    text = MINIMAL + "name: ${LMX_NAME}\n"
    one, other = load(text, {"LMX_NAME": "a"}), load(text, {"LMX_NAME": "b"})
    assert one.digest == other.digest
    assert one.spec != other.spec
