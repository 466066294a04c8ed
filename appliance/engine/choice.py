"""How a request wants its tokens picked: plain data, known before MLX is imported."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.wire import Sampling


@dataclass(frozen=True)
class Choice:
    """How one request picks its tokens. Hashable: equal choices share a sampler."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0 or self.top_p <= 0

    @property
    def plain(self) -> bool:
        """No logits processor is needed."""
        return not (self.bias or self.presence or self.frequency or self.repetition != 1.0)


def merge(request: Sampling, model: Sampling, force: bool) -> Sampling:
    """The request's fields over the model's; the other way round where the operator forces them."""
    first, second = (model, request) if force else (request, model)
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in Sampling.__struct_fields__}
    return Sampling(**{name: b if a is None else a for name, (a, b) in pairs.items()})


def choose(fields: Sampling, logit_bias: dict[int, float] | None) -> Choice:
    """`fields` after merging; what nobody set is greedy without penalties."""
    return Choice(
        temperature=fields.temperature or 0.0,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=fields.top_k or 0,
        min_p=fields.min_p or 0.0,
        repetition=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        presence=fields.presence_penalty or 0.0,
        frequency=fields.frequency_penalty or 0.0,
        bias=tuple(sorted((logit_bias or {}).items())),
    )
