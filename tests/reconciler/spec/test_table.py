"""One table describes every key, and what is made from it is fresh."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from reconciler import fields, reference, schema
from reconciler.fields import CHANGE_CLASSES, Row
from reconciler.loader.not_yet import NOT_YET
from reconciler.spec import Spec
from tests.reconciler.spec.reading import load

ROOT = Path(__file__).parents[3]
ROWS = list(fields.rows(Spec))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_every_leaf_has_a_default_a_description_and_a_change_class(row: Row) -> None:
    assert row.doc
    assert "\n" not in row.doc
    assert not row.doc.endswith(".")
    assert row.change in CHANGE_CLASSES
    required = {"version", "active", "models.*.source"}
    optional_parts = ("models.*.draft.", "warmup_templates.*.", "git.")
    assert not row.required or row.path in required or row.path.startswith(optional_parts)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.required], ids=lambda row: row.path)
def test_every_default_is_a_value_the_file_could_say(row: Row) -> None:
    assert row.kind.parse(row.kind.show(row.default)) == row.default


@pytest.mark.parametrize("row", NOT_YET, ids=lambda row: row.path)
def test_every_feature_that_has_not_landed_is_a_key_of_the_file(row: Row) -> None:
    assert any(leaf.path == row.path or leaf.path.startswith(f"{row.path}.") for leaf in ROWS)


def test_the_defaults_alone_make_the_same_spec() -> None:
    spec = load((ROOT / "lmx.yaml").read_bytes()).spec
    assert Spec.model_validate(fields.plain(spec), context={"from_file": True}) == spec


def test_the_schema_in_the_repository_is_fresh() -> None:
    stale = "run: python -m reconciler.schema"
    assert schema.SCHEMA_FILE.read_text(encoding="utf-8") == schema.text(), stale
    assert json.loads(schema.text()) == schema.build()


def test_the_reference_page_in_the_repository_is_fresh() -> None:
    assert (ROOT / reference.FILE).read_text(encoding="utf-8") == reference.text(), (
        "run: python -m reconciler.schema"
    )


def test_every_pattern_in_the_schema_is_a_pattern() -> None:
    for pattern in re.findall(r'"pattern": "(.*)"', schema.text()):
        re.compile(json.loads(f'"{pattern}"'))


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    definitions = schema.build()["$defs"]
    assert set(re.findall(r'"#/\$defs/(\w+)"', schema.text())) == set(definitions)


def test_the_file_in_the_repository_is_valid_and_without_warnings() -> None:
    loaded = load((ROOT / "lmx.yaml").read_bytes())
    assert loaded.warnings == ()
    assert {name: model.source for name, model in loaded.spec.models.items()} == {
        "demo": "./examples/models/lmx-demo",
        "mini": "./examples/models/lmx-demo-mini",
    }
    assert loaded.spec.server.port == 1234
    assert (ROOT / "lmx.yaml").read_text().startswith("# yaml-language-server: $schema=./lmx.schema.json\n")


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nactive: null\nmodels: {}\n",
        # The default of sampling.max_tokens would not fit; said aloud it is refused.
        "version: 1\nactive: a\nmodels: {a: {source: org/a, context: 512}}\n",
        (Path(__file__).parent / "everything.yaml").read_text(),
    ],
)
def test_a_spec_told_without_its_defaults_is_read_as_the_same(text: str) -> None:
    spec = load(text, {"LMX_NAME": "studio"}).spec
    told = fields.without_defaults(Spec, fields.plain(spec, spec.unexpanded))
    again = load(yaml.safe_dump(told), {"LMX_NAME": "studio"}).spec
    assert again == spec
    assert len(str(told)) < len(str(fields.plain(spec, spec.unexpanded)))
