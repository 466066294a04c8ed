"""Files laid over one another: what counts, where a mistake stands, and what is kept of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.loader import SpecError, layers, load_text
from reconciler.loader.layers import Layer
from reconciler.sources.local import LocalSource

BASE = """\
version: 1
active: small
models:
  small: {source: org/small, context: 4096, sampling: {temperature: 0, top_p: 0.5}}
  big: {source: org/big, aliases: [one, two]}
queue: {depth: 3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "hosts").mkdir()
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def loaded(file: Path) -> Any:
    return load_text(LocalSource(file).read().data, path=file, env={})


def problems(file: Path) -> list[str]:
    with pytest.raises(SpecError) as raised:
        loaded(file)
    return [str(problem).replace(str(file.parent.parent), "") for problem in raised.value.problems]


def host(folder: Path, text: str) -> Path:
    file = folder / "hosts" / "a.yaml"
    file.write_text(text)
    return file


def test_maps_merge_lists_replace_and_null_takes_a_model_away(folder: Path) -> None:
    file = host(
        folder,
        "extends: ../base.yaml\nname: a\nmodels:\n  small: {context: 512, sampling: {temperature: 1}}\n"
        "  big: {aliases: [three]}\n",
    )
    spec = loaded(file).spec
    assert (spec.name, spec.active, spec.queue.depth, spec.extends) == ("a", "small", 3, None)
    small = spec.models["small"]
    assert (small.source, small.context, small.sampling.temperature, small.sampling.top_p) == (
        "org/small",
        512,
        1,
        0.5,
    )
    assert spec.models["big"].aliases == ("three",)
    host(folder, "extends: ../base.yaml\nmodels: {big: null}\n")
    assert list(loaded(file).spec.models) == ["small"]
    host(folder, "extends: ../base.yaml\nactive: null\n")
    assert loaded(file).spec.active is None


def test_split_or_not_the_meaning_is_the_same(folder: Path) -> None:
    whole = load_text(BASE + "name: a\n", path=Path("lmx.yaml"), env={})
    split = loaded(host(folder, "name: a  # here\nextends: ../base.yaml\n"))
    assert split.digest == whole.digest
    assert split.spec == whole.spec
    assert split.content_digest != whole.content_digest


def test_the_content_is_the_same_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    first = LocalSource(host(folder, "extends: ../base.yaml\n")).read().content_digest
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    folder.rename(moved)
    assert LocalSource(moved / "hosts" / "a.yaml").read().content_digest == first


def test_a_mistake_is_told_at_its_line_of_its_file(folder: Path) -> None:
    file = host(folder, "extends: ../base.yaml\nmodels:\n  small: {contxt: 1}\nqueue: {depth: -1}\n")
    assert problems(file) == [
        "/hosts/a.yaml:3:11: models.small.contxt: unknown key (did you mean 'context'?)",
        "/hosts/a.yaml:4:16: queue.depth: must be between 0 and 100000; found the number -1",
    ]
    (folder / "base.yaml").write_text(BASE + "colour: red\nname: [\n")
    assert problems(file)[0].startswith("/base.yaml:9:1: not valid YAML")
    (folder / "base.yaml").write_text(BASE + "colour: red\n")
    host(folder, "extends: ../base.yaml\nactive: bigg\n")
    assert problems(file) == [
        "/base.yaml:7:1: colour: unknown key; remove it",
        "/hosts/a.yaml:2:9: active: no such model in models (small, big) (did you mean 'big'?)",
    ]


def test_every_value_knows_where_it_stands(folder: Path) -> None:
    file = host(folder, "extends: ../base.yaml\nname: a\n")
    root = loaded(file).root
    assert (root.keys["name"].file, root.keys["name"].line) == (str(file), 2)
    assert (root.keys["queue"].file, root.keys["queue"].line) == (str(folder / "base.yaml"), 6)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("../bse.yaml", "/hosts/../bse.yaml is not there; did you mean 'base.yaml'?"),
        ("../../base.yaml", "../../base.yaml leads out of"),
        ("/etc/passwd", "write the path of a base from the file that extends it, like ../base.yaml"),
        ("~/base.yaml", "write the path of a base from the file that extends it, like ../base.yaml"),
        ("a.yaml", "a.yaml extends a.yaml: a circle; cut it"),
        ("../hosts", "is a folder"),
    ],
)
def test_a_base_that_cannot_be_had(folder: Path, said: str, problem: str) -> None:
    found = problems(host(folder, f"extends: {said}\nname: a\n"))
    assert len(found) == 1
    assert found[0].startswith("/hosts/a.yaml:1:10: extends: ")
    assert problem in found[0]


def test_outside_of_a_repository_a_base_lies_in_the_file_s_own_folder(folder: Path) -> None:
    (folder / ".git").rmdir()
    assert "leads out of" in problems(host(folder, "extends: ../base.yaml\n"))[0]
    (folder / "hosts" / "base.yaml").write_text(BASE)
    assert loaded(host(folder, "extends: base.yaml\n")).spec.queue.depth == 3


def test_a_chain_has_an_end(folder: Path) -> None:
    for number in range(layers.MOST):
        (folder / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    (folder / f"{layers.MOST - 1}.yaml").write_text(BASE)
    assert loaded(folder / "0.yaml").spec.queue.depth == 3
    (folder / f"{layers.MOST - 1}.yaml").write_text(f"extends: {layers.MOST}.yaml\n")
    (folder / f"{layers.MOST}.yaml").write_text(BASE)
    with pytest.raises(SpecError, match="more than 8 files"):
        loaded(folder / "0.yaml")


# --- as one piece of bytes ---------------------------------------------------------------------------

LAYERS = st.lists(
    st.builds(
        Layer,
        name=st.text(max_size=20),
        data=st.binary(max_size=60) | st.just(layers.MAGIC),
        origin=st.sampled_from(["local", "git"]),
        broken=st.text(max_size=20),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(LAYERS)
def test_what_was_packed_comes_out_again(found: list[Layer]) -> None:
    packed = layers.pack(found)
    only = found[0]
    if len(found) == 1 and packed == only.data:
        assert (only.origin, only.broken) == ("local", "")
    else:
        assert layers.unpack(packed) == found


def test_a_plain_file_is_its_own_bytes() -> None:
    assert layers.pack([Layer("lmx.yaml", BASE.encode())]) == BASE.encode()


@settings(deadline=None)
@given(LAYERS, st.data())
def test_a_damaged_pack_is_an_error_and_no_crash(found: list[Layer], data: st.DataObject) -> None:
    packed = bytearray(layers.pack(found))
    at = data.draw(st.integers(0, max(0, len(packed) - 1)))
    packed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(SpecError):
        load_text(bytes(packed), path=Path("lmx.yaml"), env={})


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "models"]), inner, max_size=3),
    max_leaves=8,
)


def over(base: Any, top: Any) -> Any:
    """The rule, in a line: maps merge, all else is replaced."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    return {**base, **{key: over(base[key], item) if key in base else item for key, item in top.items()}}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), TREES), st.dictionaries(st.sampled_from("abc"), TREES))
def test_merging_is_what_the_rule_says(base: dict[str, Any], top: dict[str, Any]) -> None:
    texts = [yaml.safe_dump(base).encode(), yaml.safe_dump(top).encode()]
    found, faults = layers.trees([Layer(f"{n}", text) for n, text in enumerate(texts)], Path("lmx.yaml"))
    assert not faults
    from reconciler.loader import tree

    assert tree.raw(layers.merged(found)) == over(base, top)
