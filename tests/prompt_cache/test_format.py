"""A file is either what was written, byte for byte, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from appliance.prompt_cache import format, keys
from appliance.prompt_cache.format import Array, Damaged, Loaded, Newer, Payload, Record
from tests.prompt_cache.making import META, NAMESPACE, contents, ids, payload, record


def write(path: Path, made: Record, given: Payload, meta: dict[str, str] = META) -> None:
    format.check(made, given, NAMESPACE)
    head, views = format.encode(made, given, meta, NAMESPACE)
    path.write_bytes(b"".join(bytes(view) for group in format.pieces(head, views) for view in group))


def read(path: Path, key: bytes, namespace: str = NAMESPACE) -> Loaded:
    with FileIO(str(path)) as file:
        return format.read(file, path.stat().st_size, namespace, key)


@pytest.mark.parametrize("dtype", sorted(format.SIZES))
def test_every_dtype_comes_back_as_it_was(tmp_path: Path, dtype: str) -> None:
    size = format.SIZES[dtype]
    given = {
        "some": Array(dtype, (2, 3, 5), memoryview(bytearray(range(30 * size % 251)) * 300)[: 30 * size]),
        "none": Array(dtype, (4, 0), memoryview(b"")),
        "one": Array(dtype, (), memoryview(bytes(range(size)))),
        "odd": Array("U8", (3,), memoryview(b"abc")),
    }
    write(tmp_path / "f", made := record(), given)
    loaded = read(tmp_path / "f", made.key)
    assert contents(loaded.payload) == contents(given)
    assert loaded.record == made
    assert loaded.meta == META


def test_a_file_larger_than_a_piece_comes_back_as_it_was(tmp_path: Path) -> None:
    given = payload(3 * format.PIECE + 1000)
    write(tmp_path / "f", made := record(kind="state", count=17), given)
    assert contents(read(tmp_path / "f", made.key).payload) == contents(given)


def test_a_window_on_wider_elements_is_written_as_its_bytes(tmp_path: Path) -> None:
    words = memoryview(bytearray(range(64))).cast("I")
    write(tmp_path / "f", made := record(), {"x": Array("U32", (4, 4), words)})
    assert bytes(read(tmp_path / "f", made.key).payload["x"].data) == bytes(range(64))


def test_any_safetensors_reader_opens_the_file(tmp_path: Path) -> None:
    given = payload() | {"odd": Array("U8", (3,), memoryview(b"abc"))}
    write(tmp_path / "f", made := record(), given)
    with safe_open(tmp_path / "f", "np") as opened:
        assert set(opened.keys()) == set(given)
        assert opened.metadata()["key"] == made.key.hex()
        assert opened.get_tensor("odd").tobytes() == b"abc"
        assert opened.get_tensor("0.keys").tobytes() == bytes(given["0.keys"].data)


def test_tensors_are_aligned_for_their_elements(tmp_path: Path) -> None:
    given = {"a": Array("U8", (3,), memoryview(b"abc")), "b": Array("F64", (1,), memoryview(bytes(8)))}
    write(tmp_path / "f", record(), given)
    with safe_open(tmp_path / "f", "np") as opened:
        assert opened.get_tensor("b").shape == (1,)
    length = int.from_bytes((tmp_path / "f").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "f").read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    assert header["b"]["data_offsets"] == [0, 8]


@pytest.mark.parametrize(
    ("made", "given", "says"),
    [
        (record(), {"x": Array("F32", (3,), memoryview(bytes(8)))}, "8 bytes"),
        (record(), {"x": Array("FLOAT", (2,), memoryview(bytes(8)))}, "no dtype"),
        (record(), {"x": Array("U8", (4,), memoryview(bytes(8))[::2])}, "x: 4 bytes"),
        (record(count=257), {}, "257 tokens"),
        (record(kind="state", count=256), {}, "256 tokens"),
        (record(start=5), {}, "grid"),
        (record(parent=b"p" * 16), {}, "root"),
        (Record(b"k" * 16, record().parent, "block", 0, ids(0, 3), ""), {}, "key"),
    ],
)
def test_what_contradicts_itself_is_not_written(made: Record, given: Payload, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        format.check(made, given, NAMESPACE)


# --- damage -----------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_never_yields_other_contents_and_never_raises(tmp_path: Path, data: Any) -> None:
    made, given = record(count=3), payload(64)
    write(tmp_path / "f", made, given)
    body = bytearray((tmp_path / "f").read_bytes())
    at = data.draw(st.integers(0, len(body) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "delete", "zeros"]))
    if how == "flip":
        body[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del body[at:]
    elif how == "insert":
        body[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    elif how == "delete":
        del body[at : at + data.draw(st.integers(1, 20))]
    else:
        body[at:] = bytes(len(body) - at)
    (tmp_path / "f").write_bytes(body)
    try:
        loaded = read(tmp_path / "f", made.key)
    except (Damaged, Newer):
        return
    assert contents(loaded.payload) == contents(given)
    assert (loaded.record, loaded.meta) == (made, META)


def test_a_flip_of_any_one_byte_is_found_or_harmless(tmp_path: Path) -> None:
    made, given = record(count=3), payload(64)
    write(tmp_path / "f", made, given)
    whole = (tmp_path / "f").read_bytes()
    refused = 0
    for at in range(len(whole)):
        body = bytearray(whole)
        body[at] ^= 0x01
        (tmp_path / "f").write_bytes(body)
        try:
            assert contents(read(tmp_path / "f", made.key).payload) == contents(given)
        except (Damaged, Newer):
            refused += 1
    assert refused > len(whole) - 20  # spaces that pad the header mean nothing


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a file's header, with a checksum that is right for it."""
    body = path.read_bytes()
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    change(header)
    about = header.pop("__metadata__")
    about.pop("header_xxh3", None)
    meaning = json.dumps([about, header], sort_keys=True, separators=(",", ":")).encode()
    about["header_xxh3"] = xxhash.xxh3_128_hexdigest(meaning)
    new = json.dumps({"__metadata__": about, **header}).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + body[8 + length :])


def about(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["__metadata__"].update(members)


def tensor(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["0.keys"].update(members)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "other namespace": (about(namespace="f" * 32), "namespace"),
    "other format": (about(lmx_format="0"), "format"),
    "no format": (about(lmx_format="x"), "format"),
    "other key": (about(key="00" * 16), "contradicts"),
    "other tokens": (about(tokens=ids(9, 3).hex()), "contradicts"),
    "half a token": (about(tokens="0000"), "contradicts"),
    "other parent": (about(parent="00" * 16), "contradicts"),
    "other kind": (about(kind="thing"), "contradicts"),
    "off the grid": (about(start="7"), "contradicts"),
    "other scope": (about(scope="somebody"), "contradicts"),
    "strange scope": (about(scope="\ud800"), "read"),
    "meta is a list": (about(meta="[]"), "metadata"),
    "meta of numbers": (about(meta='{"a": 1}'), "metadata"),
    "number in metadata": (about(start=0), "metadata"),
    "overlap": (lambda header: header["0.values"].update(data_offsets=[0, 32]), "overlap"),
    "gap": (tensor(data_offsets=[8, 40]), "overlap"),
    "beyond the end": (tensor(data_offsets=[0, 2**40], shape=[2**38]), "overlap|bytes"),
    "backwards": (tensor(data_offsets=[32, 0]), "match"),
    "negative shape": (tensor(shape=[-1, -8]), "shape"),
    "fractional shape": (tensor(shape=[8.0]), "shape"),
    "unknown type": (tensor(dtype="X9"), "type"),
    "three offsets": (tensor(data_offsets=[0, 1, 2]), "table"),
    "tensor is a list": (lambda header: header.update({"0.keys": []}), "table"),
    "tensor taken out": (lambda header: header.pop("0.values") and None, "bytes"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_header_that_says_what_cannot_be_is_refused_though_its_checksum_is_right(
    tmp_path: Path, name: str
) -> None:
    change, says = FORGERIES[name]
    write(tmp_path / "f", made := record(count=3), payload(64))
    forge(tmp_path / "f", lambda header: None)
    read(tmp_path / "f", made.key)  # the forger knows the trade
    forge(tmp_path / "f", change)
    with pytest.raises(Damaged, match=says):
        read(tmp_path / "f", made.key)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"abc",
        bytes(8),
        (2**63).to_bytes(8, "little") + b"{}",
        (format.HEADER_MOST + 1).to_bytes(8, "little") + b" " * (format.HEADER_MOST + 10),
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        (200_005).to_bytes(8, "little") + b'{"a":' + b"[" * 100_000 + b"]" * 100_000,
        (20).to_bytes(8, "little") + b'{"__metadata__": {}}',
        (20).to_bytes(8, "little") + b'{"__metadata__": 12}',
    ],
)
def test_what_is_no_file_of_ours_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "f").write_bytes(body)
    with pytest.raises(Damaged):
        read(tmp_path / "f", record().key)


def test_a_file_of_a_later_format_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    write(tmp_path / "f", made := record(), payload())
    forge(tmp_path / "f", about(lmx_format=str(format.FORMAT + 1)))
    with pytest.raises(Newer):
        read(tmp_path / "f", made.key)


def test_a_right_file_under_another_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f", record(), payload())
    with pytest.raises(Damaged, match="another key"):
        read(tmp_path / "f", record(first=1).key)


def test_what_was_read_cannot_be_changed_by_who_got_it(tmp_path: Path) -> None:
    write(tmp_path / "f", made := record(), payload())
    with pytest.raises(TypeError):
        read(tmp_path / "f", made.key).payload["0.keys"].data[0] = 1


def test_a_scope_is_part_of_the_key(tmp_path: Path) -> None:
    mine, theirs = record(scope="mine"), record(scope="theirs")
    assert mine.key != theirs.key
    assert mine.parent == keys.root(NAMESPACE, "mine")
