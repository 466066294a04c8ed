"""`lmx config`: every value of the file or the appliance, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.address import connect
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.spec_file import read
from appliance.cli.terminal import show_json

if TYPE_CHECKING:
    from pydantic import BaseModel

INDENT = "  "


def config(
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Every key there is, its default and meaning.")
    ] = False,
    effective: Annotated[
        bool, typer.Option("--effective", help="FILE with all defaults filled in; with --url, the appliance.")
    ] = False,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Show every default, or the whole configuration and where each value of it comes from.

    --defaults; --effective of FILE, without an appliance; or neither for what the appliance runs with: file
    and line, the environment, a try, or a default, and what bounds a value now. What came from the
    environment is shown as the file writes it, never its value.
    """
    if defaults and effective:
        raise CliError("--defaults and --effective are two different questions; ask one at a time.")
    if defaults:
        show_json(list(_rows())) if output is Format.JSON else print("\n".join(_reference()))
        return
    answer = _of_file(file) if effective and url is None else _of_appliance(file, url)
    if output is Format.JSON:
        show_json(answer)
    else:
        from appliance.cli.origins import annotated

        print("\n".join(annotated(answer)))


def _of_file(file: Path) -> dict[str, Any]:
    from reconciler.loader.origins import origins

    loaded = read(file)
    spec = loaded.spec
    found = {path: origin.as_dict() for path, origin in origins(loaded).items()}
    return {"spec": filled(spec, spec.unexpanded), "origins": found}


def _of_appliance(file: Path, url: str | None) -> dict[str, Any]:
    with connect(file, url) as appliance:
        answer: dict[str, Any] = appliance.get("/admin/config?origins=true")
    return answer


def filled(model: BaseModel, unexpanded: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """One map of the spec as the YAML would say it, defaults included, environment references as written."""
    from pydantic import BaseModel

    from reconciler import fields

    answer: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        form, path, value = fields.shape(field), prefix + name, getattr(model, name)
        if form.kind is not None:
            answer[name] = _shown(form.kind.show(value), path, unexpanded)
        elif isinstance(value, BaseModel):
            answer[name] = filled(value, unexpanded, f"{path}.")
        elif isinstance(value, Mapping):
            answer[name] = {key: filled(item, unexpanded, f"{path}.{key}.") for key, item in value.items()}
        else:
            answer[name] = None
    return answer


def _shown(value: Any, path: str, unexpanded: Mapping[str, str]) -> Any:
    if path in unexpanded:
        return unexpanded[path]
    if isinstance(value, list):
        return [_shown(item, f"{path}.{index}", unexpanded) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _shown(item, f"{path}.{key}", unexpanded) for key, item in value.items()}
    return value


def _rows() -> Iterator[dict[str, Any]]:
    """The field table, one record a leaf."""
    from reconciler import fields
    from reconciler.loader.not_yet import is_not_yet
    from reconciler.spec import Spec

    for row in fields.rows(Spec):
        yield {
            "path": row.path,
            "default": None if row.required else row.kind.show(row.default),
            "required": row.required,
            "change": row.change,
            "doc": row.doc,
            "supported": not is_not_yet(row.path),
        }


def _reference() -> Iterator[str]:
    """The field table as a YAML file with a comment at each key."""
    from reconciler.fields import CHANGE_CLASSES

    yield "# Every key and its default. NAME stands for a name of your choice."
    yield "# An edit takes effect according to its class:"
    for name, words in CHANGE_CLASSES.items():
        yield f"#   {name:<8} {words}"
    above: list[str] = []
    for row in _rows():
        *sections, key = row["path"].replace("*", "NAME").split(".")
        shared = next(
            (i for i, (a, b) in enumerate(zip(above, sections, strict=False)) if a != b),
            min(len(above), len(sections)),
        )
        for depth in range(shared, len(sections)):
            yield f"{INDENT * depth}{sections[depth]}:"
        above = sections
        value = "" if row["required"] else f" {_inline(row['default'])}"
        notes = [
            row["doc"],
            row["change"],
            *(["required"] if row["required"] else []),
            *([] if row["supported"] else ["not supported yet"]),
        ]
        text = f"{INDENT * len(sections)}{key}:{value}"
        yield f"{text:<46} # {'; '.join(notes)}"


def _inline(value: Any) -> str:
    """One value on one line of YAML."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
    return text.removesuffix("\n...\n").removesuffix("\n")
