"""Models as they might lie on a disk: a real-looking config, and weights of a stated size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from reconciler.observed import ModelFiles

MIB, GIB = 2**20, 2**30

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}

Fate = Literal["ok", "fails", "fails_for_ever", "probe_fails", "crashes_loading"]


@dataclass
class Source:
    """What lies behind one `source` of the spec, and how loading it will go."""

    files: ModelFiles
    fate: Fate = "ok"
    hub: bool = False  # it can be fetched
    fetch_fails: bool = False
    version: int = 1

    def replaced(self) -> None:
        """Somebody put other files there."""
        self.version += 1
        base = self.files.fingerprint.split("#")[0]
        self.files = replace(self.files, fingerprint=f"{base}#{self.version}")


def present(name: str, weights_bytes: int) -> ModelFiles:
    return ModelFiles(
        "present",
        path=f"/models/{name}",
        weights_bytes=weights_bytes,
        parameters=weights_bytes // 2,
        config=CONFIG,
        fingerprint=f"{name}#1",
    )


def shelf() -> dict[str, Source]:
    """Names tell sizes: ./small-* 1 GiB, ./medium-* 2 GiB, ./large-* 4 GiB, org/* is on the hub."""
    sizes = {"small": GIB, "medium": 2 * GIB, "large": 4 * GIB}
    found = {
        f"./{size}-{letter}": Source(present(f"{size}-{letter}", weights))
        for size, weights in sizes.items()
        for letter in "abcd"
    }
    for letter in "ab":
        files = replace(present(f"hub-{letter}", GIB), state="absent", message="not downloaded")
        found[f"org/hub-{letter}"] = Source(files, hub=True)
    return found
