"""What a request that is not taken hears: one function per reason, all words in one place. Pure."""

from __future__ import annotations

from appliance.errors import ApiError
from reconciler.observed import Role, Route

SWAP_RETRY = 5.0  # seconds: a load or swap under way is likely to be over by then
DRAIN_RETRY = 30.0  # a drain is an operator's doing, and takes longer
NAME_SHOWN = 100  # characters of an unknown name in the answer


def closed(message: str) -> ApiError:
    return ApiError("overloaded", message, retry_after=SWAP_RETRY)


def no_active(reason: str) -> ApiError:
    return ApiError("no-model-loaded", reason or "no model is active", retry_after=SWAP_RETRY)


def unknown(name: str, known: list[str]) -> ApiError:
    text = f"there is no model {name[:NAME_SHOWN]!r}; models here: {', '.join(known) or 'none'}"
    if known:
        text += "; to let one of them answer to that name, add it to its aliases in lmx.yaml"
    return ApiError("model_not_found", text, param="model")


def not_for(key: str, model: str) -> ApiError:
    text = f"the key {key} may not use model {model}; GET /v1/models lists those it may use"
    return ApiError("forbidden", text, param="model")


ENDPOINTS: dict[Role, str] = {
    "chat": "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
}


def other_role(route: Route, role: Role, known: list[str], *, named: bool) -> ApiError:
    """known: the models that are for it."""
    there = f"{role} models here: {', '.join(known) or 'none'}"
    if named:
        article = "an" if route.role == "embedding" else "a"
        text = f"{route.model} is {article} {route.role} model: ask it at {ENDPOINTS[route.role]}; {there}"
    else:
        text = f"name the model: the active one, {route.model}, is for chats; {there}"
    return ApiError("invalid_request", text, param="model")


def refusing(route: Route) -> ApiError:
    text = route.message or f"model {route.model} does not take requests now"
    return ApiError(route.code, text, retry_after=route.retry_after)


def drained(reason: str, *, known: bool) -> ApiError:
    who = "its sessions have had their time" if known else "no new session is taken"
    return ApiError("overloaded", f"{reason}: {who}", retry_after=DRAIN_RETRY)


def swapped(model: str) -> ApiError:
    text = f"model {model} was swapped before all of this answer had begun; ask again"
    return ApiError("model_swapping", text, retry_after=1.0)


def full(waiting: int, retry: float) -> ApiError:
    text = f"{waiting} requests are waiting already, the most that queue.depth allows"
    return ApiError("overloaded", text, retry_after=retry)


def late(model: str, waiting: int, retry: float) -> ApiError:
    """Back-pressure: it could be taken, but not be answered in time."""
    text = f"{waiting} requests are waiting for model {model} already, the most it can answer in time"
    return ApiError("overloaded", text, retry_after=retry)


def not_begun(model: str, waited: float, retry: float, *, memory: bool) -> ApiError:
    """It lay in an engine until its time was up. memory: the engine says that requests wait there."""
    what = f"memory of model {model}" if memory else f"model {model} to begin it"
    return ApiError("overloaded", f"waited {waited:.1f} s for {what}", retry_after=retry)


def not_served(route: Route | None, model: str, waited: float, retry: float, *, answers: bool) -> ApiError:
    """It waited in the queue until its time was up. answers: an engine takes requests of this route."""
    head = f"waited {waited:.1f} s"
    if route is not None and route.status == "ready" and answers:
        why = "while memory is short, new sessions wait for others to end" if route.throttled else ""
        text = f"{head} for a free row of model {model}" + (f" ({why})" if why else "")
        return ApiError("overloaded", text, retry_after=retry)
    if route is not None and route.status in ("wait", "wake") and route.message:
        return ApiError(route.code, f"{head}: {route.message}", retry_after=route.retry_after or SWAP_RETRY)
    text = f"{head} for model {model}, which is being loaded or swapped"
    return ApiError("model_swapping", text, retry_after=SWAP_RETRY)
