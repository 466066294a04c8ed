"""What one key may use: requests and tokens per minute, and requests at once.

Token buckets: each starts full, holds one minute's worth and fills evenly, so a burst is fine and the mean
is kept. Tokens are known only afterwards. They are reserved when a row begins (what the prompt is likely to
have, and the longest answer asked for) and settled at the end; what was used beyond that leaves a debt that
later requests wait for.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from appliance.access.keyring import Key
from appliance.errors import ApiError

MINUTE = 60.0
ANSWER = 512  # tokens reserved for an answer whose length the request does not bound
BYTES_PER_TOKEN = 4  # of a request's body: English text and its JSON
STREAM_RETRY_S = 1.0

Clock = Callable[[], float]


class Bucket:
    """limit: per minute."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._held = float(limit)
        self._at = clock()

    @property
    def level(self) -> float:
        """What may be taken now; below zero for a debt."""
        now = self._clock()
        self._held = min(self.limit, self._held + (now - self._at) * self.limit / MINUTE)
        self._at = now
        return self._held

    def take(self, count: float) -> None:
        """Also more than there is."""
        self._held = self.level - count

    def give_back(self, count: float) -> None:
        self._held = min(self.limit, self.level + count)

    def wait(self, count: float) -> float:
        """Seconds until so much is there; a full bucket is enough for anything."""
        missing = min(count, self.limit) - self.level
        return max(0.0, missing * MINUTE / self.limit)

    def full_in(self) -> float:
        return max(0.0, (self.limit - self.level) * MINUTE / self.limit)

    def resized(self, limit: int) -> Bucket:
        """The same use under another limit."""
        other = Bucket(limit, self._clock)
        other._held = limit - (self.limit - self.level)
        return other


class Allowance:
    """What one key has left. It outlives edits of the key file: no new limit forgives what was used."""

    def __init__(self, key: Key, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.running = 0
        self.counted: Counter[str] = Counter()  # requests, refused, tokens: since it was first read
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.follow(key)

    def follow(self, key: Key) -> None:
        self.key = key
        self.requests = self._bucket(self.requests, key.requests)
        self.tokens = self._bucket(self.tokens, key.tokens)

    def _bucket(self, now: Bucket | None, limit: int | None) -> Bucket | None:
        if limit is None:
            return None
        if now is None:
            return Bucket(limit, self._clock)
        return now if now.limit == limit else now.resized(limit)

    def open(self, size: int) -> Charge:
        """A request begins, with a body of so many bytes. Raises ApiError with `rate_limited`.

        What is refused costs nothing.
        """
        key = self.key
        if key.streams is not None and self.running >= key.streams:
            text = f"{key.name}: {self.running} requests run at once, which is its limit; wait for one to end"
            raise self.refusal(text, STREAM_RETRY_S)
        if self.requests is not None and (wait := self.requests.wait(1)):
            raise self.refusal(f"{key.name}: over its limit of {key.requests} requests per minute", wait)
        if self.tokens is not None and (wait := self.tokens.wait(1)):
            raise self.refusal(f"{key.name}: over its limit of {key.tokens} tokens per minute", wait)
        if self.requests is not None:
            self.requests.take(1)
        self.running += 1
        self.counted["requests"] += 1
        return Charge(self, size // BYTES_PER_TOKEN)

    def refusal(self, text: str, wait: float) -> ApiError:
        self.counted["refused"] += 1
        error = ApiError("rate_limited", f"key {text}", retry_after=max(0.001, wait))
        error.headers = self.headers()
        return error

    def headers(self) -> dict[str, str]:
        """As OpenAI names them: https://platform.openai.com/docs/guides/rate-limits"""
        found = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{name}"] = span(bucket.full_in())
        return found


class Charge:
    """What one request uses: one row or several, one after the other or at once."""

    def __init__(self, allowance: Allowance, prompt: int) -> None:
        self.allowance = allowance
        self._prompt = prompt  # tokens, estimated
        self._reserved = 0
        self._spent = 0
        self._open = True

    @property
    def name(self) -> str:
        return self.allowance.key.name

    def may_use(self, model: str) -> bool:
        return self.allowance.key.may_use(model)

    def reserve(self, answer: int | None) -> ApiError | None:
        """A row is about to begin. The refusal, where there is too little left for it.

        answer: tokens at most, None: not said. A request that has begun is let on with all its rows.
        """
        bucket = self.allowance.tokens
        if bucket is None:
            return None
        need = self._prompt + (ANSWER if answer is None else answer)
        wait = 0.0 if self._reserved else bucket.wait(need)
        if wait:
            text = (
                f"{self.name}: this request may take {need} tokens, {max(0, math.floor(bucket.level))} of "
                f"{bucket.limit} per minute are left; wait, or ask for a shorter answer with max_tokens"
            )
            return self.allowance.refusal(text, wait)
        bucket.take(need)
        self._reserved += need
        return None

    def spend(self, tokens: int) -> None:
        """A row has ended: tokens of its prompt and its answer."""
        self._spent += tokens
        self.allowance.counted["tokens"] += tokens

    def close(self) -> None:
        """The request is over: what it did not use is given back. Once; later calls do nothing."""
        if not self._open:
            return
        self._open = False
        self.allowance.running -= 1
        if self.allowance.tokens is not None:
            self.allowance.tokens.take(self._spent - self._reserved)


def span(seconds: float) -> str:
    """`6m0s`, `1.5s`, `20ms`: durations as Go writes them, and OpenAI with it."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:.0f}s" if minutes else f"{rest:g}s"
