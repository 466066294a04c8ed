"""Cut rows out of caches, and join what was cut into new ones. Work on the device is launched, not awaited.

What a *per-token* cache (`KVCache`, its quantised and batched forms) holds can be cut anywhere: a *lane* is
one of its arrays, `(rows, heads, tokens, width)`, and a block has the same piece of every lane. Any other
cache (rotating, recurrent, chunked) is kept whole, as its `state`, which is right after exactly so many
tokens; the lanes' last, unfinished block goes with it, so that a state needs nothing but the whole blocks
before it.

A piece's lanes of one shape and type are one array, `(lanes, heads, tokens, width)`: Metal has a ceiling of
499,000 buffers for all that a process holds. Cutting copies, so that a piece never keeps the cache alive that
it came from; joining copies once per lane, with room for the rest of the prompt, so that the prefill after it
writes in place. bfloat16, which no buffer outside of MLX can have, is kept as its bits in uint16: what goes
to disk is then the array's own memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core
import numpy as np
from mlx_lm.models.cache import BatchKVCache, KVCache, QuantizedKVCache, RotatingKVCache

from appliance.engine.layers import flat
from appliance.prompt_cache.format import Array, Payload

mx: Any = mlx.core
Caches = list[Any]  # one per layer, perhaps CacheLists

PER_TOKEN = (KVCache, QuantizedKVCache, BatchKVCache)
NAMES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.int64: "I64",
    mx.uint16: "U16",
    mx.int16: "I16",
    mx.uint8: "U8",
    mx.int8: "I8",
    mx.bool_: "BOOL",
}
HOST = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "U32": np.uint32,
    "I32": np.int32,
    "I64": np.int64,
    "U16": np.uint16,
    "I16": np.int16,
    "U8": np.uint8,
    "I8": np.int8,
    "BOOL": np.bool_,
}


class Unfit(Exception):
    """These caches cannot be cut, or these pieces do not go together. The message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What is kept of one block or state. plan: JSON, what each array holds; see `_plan`."""

    arrays: tuple[Any, ...]
    plan: str

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def stateful(caches: Caches) -> bool:
    """Whether a model with these caches resumes only where a state was kept."""
    return any(not isinstance(cache, PER_TOKEN) for cache in flat(caches))


# -- cutting ---------------------------------------------------------------------------------------------


def cut(caches: Caches, row: int | None, total: int, start: int, end: int) -> Piece:
    """The block of the tokens from `start` to `end`, of a row of `total` tokens.

    row: its place in batched caches; None for plain ones, which may hold more. Raises Unfit where caches
    hold another number of tokens than they should.
    """
    lanes, arrays = _lanes(caches, row, total, start, end)
    pieces, groups = _grouped(arrays)
    mx.async_eval(*pieces)
    return Piece(tuple(pieces), _plan(lanes, groups, arrays))


def cut_state(caches: Caches, row: int | None, total: int, start: int, back: int = 0) -> Piece:
    """The state after `total` tokens, with the lanes' tokens from `start` on.

    back: instead, the state so many tokens before, of plain caches that `rewinds` and whose last chunk had as
    many. Raises Unfit.
    """
    lanes, arrays = _lanes(caches, row, total, start, total - back)
    pieces, groups = _grouped(arrays)
    parts: dict[Any, list[Any]] = {}
    states = {}
    for index, cache in enumerate(flat(caches)):
        if not isinstance(cache, PER_TOKEN):
            own = cache if row is None else cache.extract(row)
            if getattr(own, "offset", total) != total:
                raise Unfit(f"a {type(own).__name__} holds {own.offset} tokens where {total} are due")
            states[index] = _packed(_rewound(own, back) if back else own.state, parts)
    packs = [mx.concatenate([*parts[dtype], mx.zeros((0,), dtype)]) for dtype in parts]  # always copies
    packs = [_bits(pack) for pack in packs]
    mx.async_eval(*packs, *pieces)
    plan = {
        "total": total - back,
        "states": states,
        "packs": [NAMES[dtype] for dtype in parts],
        "lanes": json.loads(_plan(lanes, groups, arrays)),
    }
    return Piece((*packs, *pieces), json.dumps(plan, separators=(",", ":")))


def rewinds(caches: Caches) -> bool:
    """Whether the state of a few tokens ago can be cut out of these after a chunk (see `_rewound`)."""
    return all(isinstance(cache, PER_TOKEN) or type(cache) is RotatingKVCache for cache in caches)


def _rewound(cache: Any, back: int) -> tuple[Any, ...]:
    """The state of a RotatingKVCache `back` tokens ago.

    mlx-lm's `_update_concat` leaves all tokens of the last chunk in their order, and before them as many as
    the first of the chunk may see: those that the tokens from there on may see are all still there. Raises
    Unfit where they are not.
    """
    if type(cache) is not RotatingKVCache:
        raise Unfit(f"a {type(cache).__name__} cannot be set back")
    held = cache.keys.shape[2]
    if cache._idx != held or (held != cache.offset and held - back < cache.max_size - 1):
        raise Unfit(f"a RotatingKVCache with {held} of {cache.offset} tokens cannot be set back by {back}")
    keys, values = (array[..., : held - back, :] for array in (cache.keys, cache.values))
    return keys, values, cache.offset - back, cache.keep, cache.max_size, held - back


def _lanes(
    caches: Caches, row: int | None, total: int, start: int, end: int
) -> tuple[list[tuple[int, str, int]], list[Any]]:
    """Which lanes there are (cache, keys or values, place in a tuple or -1), and this piece of each."""
    lanes, arrays = [], []
    for index, cache in enumerate(flat(caches)):
        if not isinstance(cache, PER_TOKEN) or cache.keys is None:
            continue
        # In a batch a row ends where all do, so its length says where it begins: no need to ask the device.
        begin = 0 if row is None else cache._idx - total
        if begin < 0 or (row is None and cache.offset < total):
            held = cache.offset if row is None else cache._idx
            raise Unfit(f"a {type(cache).__name__} holds {held} tokens where {total} are due")
        which = slice(0, 1) if row is None else slice(row, row + 1)
        for name in ("keys", "values"):
            held = getattr(cache, name)
            for place, array in [(-1, held)] if isinstance(held, mx.array) else enumerate(held):
                lanes.append((index, name, place))
                arrays.append(array[which, :, begin + start : begin + end, :])
    return lanes, arrays


def _grouped(arrays: list[Any]) -> tuple[list[Any], list[list[int]]]:
    """Arrays of one shape and type as one array each, and which are in each."""
    groups: dict[Any, list[int]] = {}
    for lane, array in enumerate(arrays):
        groups.setdefault((array.shape, array.dtype), []).append(lane)
    pieces = []
    for (shape, dtype), members in groups.items():
        nothing = mx.zeros((0, *shape[1:]), dtype)  # with it even a single lane is copied
        pieces.append(_bits(mx.concatenate([*(arrays[lane] for lane in members), nothing])))
    return pieces, list(groups.values())


def _bits(array: Any) -> Any:
    return array.view(mx.uint16) if array.dtype == mx.bfloat16 else array


def _plan(lanes: list[tuple[int, str, int]], groups: list[list[int]], arrays: list[Any]) -> str:
    """For each array: its type, and for each of its lanes (cache, keys or values, place in a tuple or -1)."""
    plan = [
        {"type": NAMES[arrays[members[0]].dtype], "lanes": [lanes[lane] for lane in members]}
        for members in groups
    ]
    return json.dumps(plan, separators=(",", ":"))


def _packed(value: Any, parts: dict[Any, list[Any]]) -> Any:
    """A cache's state as JSON; its arrays go to `parts`, by type, one behind the other."""
    if isinstance(value, mx.array):
        mine = parts.setdefault(value.dtype, [])
        at = sum(part.size for part in mine)
        mine.append(value.reshape(-1))
        return {"pack": list(parts).index(value.dtype), "at": at, "shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, parts) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise Unfit(f"a state holds a {type(value).__name__}")


def _unpacked(plan: Any, packs: Sequence[Any]) -> Any:
    if not isinstance(plan, dict):
        return plan
    if "pack" in plan:
        shape = plan["shape"]
        size = int(np.prod(shape, dtype=np.int64))
        return packs[plan["pack"]][plan["at"] : plan["at"] + size].reshape(shape)
    if "list" in plan:
        return [_unpacked(item, packs) for item in plan["list"]]
    return tuple(_unpacked(item, packs) for item in plan["tuple"])


# -- joining ---------------------------------------------------------------------------------------------


def join(empty: Caches, blocks: Sequence[Piece], state: Piece | None, tokens: int, room: int) -> Caches:
    """Fill the model's empty plain caches with `tokens` tokens, with room for `room` in all.

    blocks: whole ones from the beginning of the text, of which the last may reach beyond `tokens`. With a
    state, the whole blocks before it. Raises Unfit where the pieces are of another model.
    """
    members = flat(empty)
    lanes: dict[tuple[int, str, int], list[Any]] = {}
    at = 0
    for block in blocks:
        at += _spread(block.arrays, _parsed(block.plan), tokens - at, lanes)
    if state is not None:
        plan = _parsed(state.plan)
        packs = [
            _typed(array, name) for array, name in zip(state.arrays, plan["packs"], strict=False)
        ]  # the rest are lanes
        _spread(state.arrays[len(packs) :], plan["lanes"], tokens - at, lanes)
        for index, held in plan["states"].items():
            members[int(index)].state = _unpacked(held, packs)
    filled: dict[int, dict[str, dict[int, Any]]] = {}
    for (index, name, place), parts in lanes.items():
        if not isinstance(members[index], PER_TOKEN):
            raise Unfit(f"layer {index} has a {type(members[index]).__name__}, which takes no blocks")
        if sum(part.shape[2] for part in parts) != tokens:
            raise Unfit("some blocks have layers that others lack")
        rest = (1, parts[0].shape[1], max(0, room - tokens), parts[0].shape[3])
        whole = mx.concatenate([*parts, mx.zeros(rest, parts[0].dtype)], axis=2)
        filled.setdefault(index, {}).setdefault(name, {})[place] = whole
    made: list[Any] = []
    for index, names in filled.items():
        cache = members[index]
        for name, places in names.items():
            value = places[-1] if -1 in places else tuple(places[place] for place in sorted(places))
            setattr(cache, name, value)
            made.extend(places.values())
        cache.offset = tokens
        if isinstance(cache, QuantizedKVCache):
            cache.group_size = cache.keys[0].shape[-1] * 32 // cache.bits // cache.keys[1].shape[-1]
    mx.async_eval(*made)
    return empty


def _spread(
    arrays: Sequence[Any], plan: list[Any], most: int, lanes: dict[tuple[int, str, int], list[Any]]
) -> int:
    """Add the pieces' first `most` tokens to each lane; how many that were."""
    tokens = 0
    for array, group in zip(arrays, plan, strict=True):
        whole = _typed(array, group["type"])
        tokens = min(most, whole.shape[2])
        if tokens < whole.shape[2]:
            whole = whole[:, :, :tokens, :]
        if whole.shape[0] != len(group["lanes"]):
            raise Unfit("a block has more or fewer lanes than it says")
        for lane, part in zip(group["lanes"], mx.split(whole, whole.shape[0]), strict=True):
            lanes.setdefault(tuple(lane), []).append(part)
    return tokens


def _typed(array: Any, name: str) -> Any:
    return array.view(mx.bfloat16) if name == "BF16" else array


@lru_cache(maxsize=64)
def _parsed(plan: str) -> Any:
    return json.loads(plan)


# -- to and from the disk --------------------------------------------------------------------------------


def to_host(piece: Piece) -> tuple[Payload, Mapping[str, str]]:
    """The arrays' own memory, which must have been computed: nothing is copied, and nothing computed here."""
    plan = _parsed(piece.plan)
    names = _types(plan)
    payload = {
        str(number): Array(name, tuple(array.shape), _memory(array))
        for number, (array, name) in enumerate(zip(piece.arrays, names, strict=True))
    }
    return payload, {"plan": piece.plan}


def from_host(payload: Payload, meta: Mapping[str, str]) -> Piece:
    """One copy into MLX's memory. Raises Unfit where the file is not what `to_host` wrote."""
    try:
        plan = meta["plan"]
        names = _types(_parsed(plan))
        arrays = []
        for number, name in enumerate(names):
            array = payload[str(number)]
            if array.dtype != name:
                raise Unfit(f"an array of {array.dtype} where {name} is due")
            arrays.append(mx.array(np.frombuffer(array.data, HOST[name]).reshape(array.shape)))
    except (KeyError, ValueError, TypeError) as error:
        raise Unfit(f"its plan does not match its arrays: {type(error).__name__}") from error
    return Piece(tuple(arrays), plan)


def _types(plan: Any) -> list[str]:
    if isinstance(plan, dict):
        return [*plan["packs"], *_types(plan["lanes"])]
    return [group["type"] for group in plan]


def _memory(array: Any) -> memoryview:
    return memoryview(array).cast("B") if array.size else memoryview(b"")
