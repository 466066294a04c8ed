"""How many tokens a prompt has, as the engine of its model would count them."""

from __future__ import annotations

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.asking import answered
from appliance.supervisor.record import Caller
from appliance.supervisor.router import Router


async def counted(router: Router, model: str | None, submit: wire.Submit, caller: Caller) -> int:
    """Raises ApiError. A model that is not loaded is woken and waited for, as a request would."""
    engine = await router.engine(model, caller=caller)
    row = msgspec.structs.replace(submit, caller=caller.key, scope=caller.scope)
    try:
        question = engine.asking.count(row)
    except wire.WireError as error:
        raise ApiError("request_too_large", str(error)) from error
    except (ValueError, TypeError, OverflowError) as error:
        text = f"the request holds a value that cannot be sent: {error}"
        raise ApiError("invalid_request", text) from error
    return (await answered(question)).tokens
