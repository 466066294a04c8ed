"""Verbs that need no appliance: init, validate, config, schema."""

from __future__ import annotations

import json

import pytest
import yaml

from reconciler import fields
from reconciler.spec import Spec
from tests.cli.standin import Lmx

TYPO = "version: 1\nactive: demo\nmodels:\n  demo: {source: builtin:lmx-demo}\nserver: {prot: 1235}\n"


def test_init_writes_a_valid_file_that_serves_the_demo_model_and_explains_itself(lmx: Lmx) -> None:
    assert "lmx up" in lmx("init").out
    text = (lmx.folder / "lmx.yaml").read_text()
    assert "builtin:lmx-demo\n" in text
    assert "builtin:lmx-demo-mini" in text
    assert text.count("#") > 10
    result = lmx("validate")
    assert (result.code, result.err) == (0, "")
    assert result.out == "lmx.yaml is valid: 2 models, active: demo\n"


def test_every_line_that_the_starter_file_comments_out_is_valid_too(lmx: Lmx) -> None:
    lmx("init")
    file = lmx.folder / "lmx.yaml"
    lines = []
    for line in file.read_text().splitlines():
        bare = line.replace("# ", "", 1)
        lines.append(bare if line.lstrip().startswith("# ") and ":" in bare.split()[0] else line)
    file.write_text("\n".join(lines).replace("  server:", "server:"))
    spec = yaml.safe_load(file.read_text())
    assert set(spec["models"]) == {"demo", "mini", "daily"}
    assert spec["server"]["port"] == 1234
    assert lmx("validate").code == 0, lmx("validate").err


def test_init_never_overwrites(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").write_text("mine")
    result = lmx("init")
    assert result.code == 1
    assert "is there already" in result.err
    assert (lmx.folder / "lmx.yaml").read_text() == "mine"
    assert lmx("init", "-f", "other.yaml").code == 0


def test_a_mistake_is_shown_with_line_column_and_what_was_meant(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").write_text(TYPO)
    result = lmx("validate")
    assert (result.code, result.out) == (1, "")
    assert "lmx.yaml:5:10: server.prot: unknown key (did you mean 'port'?)" in result.err


def test_mistakes_as_json(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").write_text(TYPO)
    result = lmx("validate", "-o", "json")
    assert result.code == 1
    answer = json.loads(result.out)
    assert answer["valid"] is False
    (problem,) = answer["problems"]
    assert (problem["line"], problem["column"], problem["path"]) == (5, 10, "server.prot")


def test_the_file_is_named_by_option_or_variable(lmx: Lmx) -> None:
    lmx("init", "-f", "there.yaml")
    assert lmx("validate", "-f", "there.yaml").code == 0
    assert lmx("validate", env={"LMX_FILE": "there.yaml"}).code == 0
    result = lmx("validate")
    assert result.code == 1
    assert "there is no lmx.yaml here" in result.err
    assert "lmx init" in result.err


def test_a_file_that_cannot_be_read_is_one_line(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").mkdir()
    result = lmx("validate")
    assert (result.code, result.err) == (
        1,
        "lmx: lmx.yaml is a folder; name the file in it, like lmx.yaml/lmx.yaml.\n",
    )


def test_config_defaults_is_yaml_that_names_every_key_of_the_field_table(lmx: Lmx) -> None:
    result = lmx("config", "--defaults")
    assert result.code == 0
    tree = yaml.safe_load(result.out)
    for row in fields.rows(Spec):
        value = tree
        for part in row.path.replace("*", "NAME").split("."):
            value = value[part]
        assert value == (None if row.required else row.kind.show(row.default)), row.path
        assert row.doc in result.out
    table = json.loads(lmx("config", "--defaults", "-o", "json").out)
    assert [entry["path"] for entry in table] == [row.path for row in fields.rows(Spec)]


def test_config_effective_fills_in_defaults_and_hides_what_the_environment_held(lmx: Lmx) -> None:
    (lmx.folder / "lmx.yaml").write_text(
        "version: 1\nname: '${LMX_NAME}'\nactive: v1.5\n"
        "models:\n  v1.5: {source: builtin:lmx-demo, priority: 7}\n"
    )
    result = lmx("config", "--effective", env={"LMX_NAME": "secret-name"})
    assert result.code == 0
    assert "secret-name" not in result.out
    tree = yaml.safe_load(result.out)
    assert tree["name"] == "${LMX_NAME}"
    assert tree["models"]["v1.5"]["priority"] == 7
    assert tree["queue"]["timeout"] == "1m"
    assert tree["git"] is None


def test_what_config_effective_prints_is_itself_a_valid_file_of_the_same_meaning(lmx: Lmx) -> None:
    lmx("init")
    first = lmx("config", "--effective").out
    (lmx.folder / "lmx.yaml").write_text(first)
    assert lmx("validate").code == 0, lmx("validate").err
    second = lmx("config", "--effective").out
    assert yaml.safe_load(second) == yaml.safe_load(first)
    left = [line for line in second.splitlines() if line.endswith("# default")]
    assert {line.split(":")[0] for line in left} <= {"extends"}  # all else stands in the file now


def test_config_effective_tells_where_each_value_stands_bases_and_the_environment_included(lmx: Lmx) -> None:
    (lmx.folder / "base").mkdir()
    (lmx.folder / "base" / "all.yaml").write_text(
        "version: 1\nactive: demo\nqueue: {depth: 9}\nmodels:\n  demo: {source: builtin:lmx-demo}\n"
    )
    (lmx.folder / "lmx.yaml").write_text("extends: base/all.yaml\nname: ${LMX_NAME}\nqueue: {timeout: 5s}\n")
    result = lmx("config", "--effective", env={"LMX_NAME": "secret-name"})
    assert result.code == 0, result.err
    lines = {line.split(":")[0].strip(): line.partition("# ")[2] for line in result.out.splitlines()}
    assert lines["depth"] == "base/all.yaml:3:9"
    assert lines["timeout"] == "lmx.yaml:3:9"
    assert lines["name"] == "from the environment, lmx.yaml:2:1"
    assert lines["host"] == "default"
    assert "secret-name" not in result.out
    told = json.loads(lmx("config", "--effective", "-o", "json", env={"LMX_NAME": "secret-name"}).out)
    assert told["origins"]["name"]["text"] == "${LMX_NAME}"
    assert told["origins"]["active"]["file"].endswith("base/all.yaml")
    assert told["origins"]["server.port"] == {"kind": "default"}
    assert told["spec"]["queue"] == {"depth": 9, "timeout": "5s"}
    assert "secret-name" not in json.dumps(told)


def test_config_asks_one_question_at_a_time(lmx: Lmx) -> None:
    assert lmx("config", "--defaults", "--effective").code == 1


def test_schema_is_a_json_schema(lmx: Lmx) -> None:
    pytest.importorskip("reconciler.schema")
    schema = json.loads(lmx("schema").out)
    assert set(schema["properties"]) >= {"version", "active", "models"}
