"""Texts and pairs of texts to tokens, by the model's own tokenizer.json.

The file is read by the `tokenizers` library alone: no Python code of a model is run, and special tokens are
those that the file itself puts around a text or a pair. What a text is too long by is an error that names it,
unless the request asks for a cut; then its end goes, of a pair the document's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from appliance.engine.prompt import Refusal
from appliance.engine.weights import BadModel, read_json

Ids = npt.NDArray[np.int32]
TOLD = 2**30  # a `model_max_length` beyond this is a placeholder


@dataclass(frozen=True)
class Item:
    """One row of the model's input. types: the segment of each token, None where all are of the first."""

    ids: Ids
    types: Ids | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Tokens:
    """Use from one thread. limit: tokens of one input, special ones included."""

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: int, *, lower: bool = False, prompt: str = ""
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._lower = lower
        self._prompt = prompt  # put before every text, as the model's own config wants it

    def id_of(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def plain(self, text: str) -> list[int]:
        """Without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def texts(self, inputs: Sequence[str | list[int]], limit: int, *, truncate: bool) -> list[Item]:
        """Lists of token ids are taken as they are. Raises Refusal."""
        written = [self._read(one) for one in inputs if isinstance(one, str)]
        encoded = iter(self._tokenizer.encode_batch(written))
        again = iter(written)
        items = []
        for index, one in enumerate(inputs):
            if isinstance(one, str):
                encoding, text = next(encoded), next(again)
                ids = encoding.ids
                if len(ids) > limit:
                    if not truncate:
                        raise too_long("input", index, len(ids), limit)
                    ids = self._cut(text, None, limit).ids
            else:
                self._check(one, index)
                if len(one) > limit and not truncate:
                    raise too_long("input", index, len(one), limit)
                ids = one[:limit]
            if not ids:
                raise Refusal("invalid_request", f"input {index} is empty", param=f"input[{index}]")
            items.append(Item(np.asarray(ids, dtype=np.int32)))
        return items

    def pairs(self, query: str, documents: Sequence[str], limit: int, *, truncate: bool) -> list[Item]:
        """A query and each document as one input of two segments. Raises Refusal."""
        encoded = self._tokenizer.encode_batch([(self._read(query), self._read(one)) for one in documents])
        items = []
        for index, encoding in enumerate(encoded):
            if len(encoding.ids) > limit:
                if not truncate:
                    raise too_long("documents", index, len(encoding.ids), limit)
                if len(self._tokenizer.encode(self._read(query), "").ids) >= limit:
                    raise query_too_long(limit)
                encoding = self._cut(query, documents[index], limit)
            types = np.asarray(encoding.type_ids, dtype=np.int32)
            items.append(Item(np.asarray(encoding.ids, dtype=np.int32), types if types.any() else None))
        return items

    def _read(self, text: str) -> str:
        text = self._prompt + text
        return text.lower() if self._lower else text

    def _cut(self, text: str, pair: str | None, limit: int) -> Encoding:
        strategy = "longest_first" if pair is None else "only_second"
        self._tokenizer.enable_truncation(limit, strategy=strategy)
        try:
            return self._tokenizer.encode(text, pair)
        finally:
            self._tokenizer.no_truncation()

    def _check(self, ids: list[int], index: int) -> None:
        strange = next((one for one in ids if not 0 <= one < self._vocabulary), None)
        if strange is not None:
            raise Refusal(
                "invalid_request",
                f"input {index} holds {strange}, which is no token of this model: ids go from 0 to "
                f"{self._vocabulary - 1}",
                param=f"input[{index}]",
            )


def too_long(field: str, index: int, tokens: int, limit: int) -> Refusal:
    """details: `index`, `tokens`, `limit`."""
    what = "input" if field == "input" else "the query with document"
    return Refusal(
        "context_length_exceeded",
        f"{what} {index} has {tokens} tokens, and this model takes {limit}; send less, or set truncate: true",
        param=f"{field}[{index}]",
        details={"index": index, "tokens": tokens, "limit": limit},
    )


def query_too_long(limit: int) -> Refusal:
    return Refusal(
        "context_length_exceeded",
        f"the query alone leaves no room for a document in the {limit} tokens this model takes; shorten it",
        param="query",
        details={"limit": limit},
    )


def read(folder: Path, vocabulary: int, *, prompt: str = "") -> Tokens:
    """The tokenizer of a model folder. Raises BadModel."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise BadModel(
            "bad_tokenizer",
            f"{folder} has no tokenizer.json, the only form of a tokenizer that encoders read; save it in "
            "that form (`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of transformers)",
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
        works = bool(tokenizer.encode("hello").ids)
    except Exception as error:  # the library raises plain Exception for whatever is wrong
        raise BadModel("bad_tokenizer", f"{file} is no usable tokenizer: {error}") from error
    if not works:
        raise BadModel("bad_tokenizer", f"{file} is no usable tokenizer: its vocabulary is empty")
    lower = _said(folder, "sentence_bert_config.json").get("do_lower_case") is True
    return Tokens(tokenizer, vocabulary, lower=lower, prompt=prompt)


def longest(folder: Path, positions: int | None) -> int:
    """Tokens of one input: the least that any of the model's files allows. Raises BadModel."""
    said = [
        _said(folder, "sentence_bert_config.json").get("max_seq_length"),
        _said(folder, "tokenizer_config.json").get("model_max_length"),
        positions,
    ]
    known = [int(n) for n in said if isinstance(n, int | float) and 0 < n < TOLD]
    if not known:
        raise BadModel("unsupported_model", f"no file of {folder} says how many tokens the model takes")
    return min(known)


def _said(folder: Path, name: str) -> dict[str, object]:
    return read_json(folder / name, "unsupported_model") if (folder / name).is_file() else {}
