"""OpenAI's own package, unpatched: each error is the exception its users catch, and retries wait as told."""

from __future__ import annotations

import time

import openai
import pytest

from appliance.errors import CODES, ApiError
from tests.server.conftest import Site
from tests.server.stand import Answer, said

pytestmark = pytest.mark.anyio
CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    405: openai.APIStatusError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
    507: openai.InternalServerError,
}


def client(site: Site, retries: int = 0) -> openai.AsyncOpenAI:
    """Without certificates, which take half a second to load."""
    plain = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(
        base_url=f"{site.url}/v1", api_key="any", max_retries=retries, http_client=plain
    )


async def ask(it: openai.AsyncOpenAI) -> str | None:
    answer = await it.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}])
    return answer.choices[0].message.content


@pytest.mark.parametrize("code", sorted(CODES))
async def test_an_error_is_the_exception_of_its_status(site: Site, code: str) -> None:
    def refuse(_: int) -> Answer:
        raise ApiError(code, "so it is", param="model", retry_after=2)

    site.desk.answer = refuse
    async with client(site) as it:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(it)
    status, kind = CODES[code]
    assert type(caught.value) is CLASSES[status]
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, "model")
    assert caught.value.type == kind
    assert "so it is" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.request_id


async def test_a_retry_waits_as_long_as_it_is_told(site: Site) -> None:
    """The package's own first wait is at most half a second."""
    asked: list[float] = []

    def busy_at_first(_: int) -> Answer:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise ApiError("overloaded", "too much to do", retry_after=0.9)
        return Answer(said("Hello"))

    site.desk.answer = busy_at_first
    async with client(site, retries=2) as it:
        assert await ask(it) == "Hello"
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1.0


async def test_what_is_wrong_with_a_request_is_not_tried_again(site: Site) -> None:
    tries = 0

    def refuse(_: int) -> Answer:
        nonlocal tries
        tries += 1
        raise ApiError("unsupported_grammar", "no")

    site.desk.answer = refuse
    async with client(site, retries=2) as it:
        with pytest.raises(openai.BadRequestError):
            await ask(it)
    assert tries == 1
