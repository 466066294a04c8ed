"""Every operation of the server, in the order a reader wants them. A route that is not here fails a test.

To add one: its line here, the structure that reads its body, the one its answer has (`answers`), and for
fields that are `Raw` there a line in `notes`.
"""

from __future__ import annotations

from appliance.server.openapi.operations.admin import ADMINISTRATION
from appliance.server.openapi.operations.inference import INFERENCE
from appliance.server.openapi.operations.layers import LAYERS
from appliance.server.openapi.operations.machine import MACHINE
from appliance.server.openapi.operations.operation import ADMIN, ANTHROPIC, Operation, Parameter

OPERATIONS: tuple[Operation, ...] = (*INFERENCE, *MACHINE, *ADMINISTRATION, *LAYERS)

__all__ = ["ADMIN", "ANTHROPIC", "OPERATIONS", "Operation", "Parameter"]
