"""Random requests, made by schemathesis from the document that the appliance itself serves.

Half of them keep to the document, half break it somewhere. Every answer must be one that the document
knows: its status, its media type, its shape; none is a 500, none takes for ever, and what breaks the document
is refused. What a request changes (a drain, an override) is undone after it, so that the next one meets a
machine that serves.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import psutil
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.e2e.machine import Machine

WITHIN_S = 60.0  # for one answer; they take milliseconds
# Streams without an end, and what is spoken after the answer.
LEFT_OUT = {("GET", "/admin/events"), ("GET", "/v1/ws")}
# A success swaps or drains models, which takes a second each time.
SELDOM = {"/admin/models/load": 3, "/admin/models/unload": 3, "/admin/drain": 10}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
MiB = 2**20
ROUND = 1000  # requests with one seed


@dataclass
class Held:
    """What the processes of an appliance hold."""

    rss: int
    handles: int

    @classmethod
    def of(cls, machine: Machine) -> Held:
        assert machine.process is not None
        parent = psutil.Process(machine.process.pid)
        family = [parent, *machine.engines()]
        return cls(sum(p.memory_info().rss for p in family), sum(p.num_fds() for p in family))


@dataclass
class Campaign:
    """machine: serves; `model` answers chats. What has a body is asked more often, what has nothing to vary
    once a round."""

    machine: Machine
    model: str
    seed: int = 1
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.machine.port}"
        self.session = requests.Session()
        self.schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")
        self.operations = [
            found.ok()
            for found in self.schema.get_all_operations()
            if (found.ok().method.upper(), found.ok().path) not in LEFT_OUT
        ]

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())

    def run(self, total: int) -> None:
        """So many requests or a few more. Raises what tells the request that failed, as a curl command."""
        until = self.sent + total
        while self.sent < until:
            self._round(min(ROUND, until - self.sent))
            self.seed += 1

    def _round(self, total: int) -> None:
        weights = [3 if operation.body else 1 for operation in self.operations]
        for operation, weight in zip(self.operations, weights, strict=True):
            share = max(2, round(total * weight / sum(weights) / 2))
            share = min(share, SELDOM.get(operation.path, share))
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and not self._can_break(operation):
                    continue
                self._play(operation, mode, share)

    def _can_break(self, operation: Any) -> bool:
        return bool(operation.body or operation.query or operation.headers)

    def _play(self, operation: Any, mode: GenerationMode, count: int) -> None:
        chance = random.Random(f"{self.seed} {operation.label} {mode}")

        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def play(case: Case) -> None:
            if mode is GenerationMode.POSITIVE:
                self._aim(case, chance)
            self._send(case, mode)

        play()

    def _aim(self, case: Case, chance: random.Random) -> None:
        """Most requests name a model that there is, and keep to what the document says in words only."""
        body = case.body
        if not isinstance(body, dict):
            return
        if "model" in body and chance.random() < 0.9:
            body["model"] = self.model
        if not body.get("stream"):
            body.pop("stream_options", None)
        if case.path.startswith("/v1/responses"):
            body.setdefault("input", "ping")
            body.pop("previous_response_id", None)
        if case.path == "/admin/drain":
            body.pop("wait", None)  # as long as the request says, which may be a day

    def _send(self, case: Case, mode: GenerationMode) -> None:
        response = case.call(base_url=self.url, session=self.session, timeout=WITHIN_S)
        self.statuses[case.operation.label, response.status_code] += 1
        assert response.status_code != 500, f"{case.as_curl_command()}\n{response.text[:2000]}"
        case.validate_response(response, checks=CHECKS)
        if mode is GenerationMode.NEGATIVE:
            case.validate_response(response, checks=[checks.negative_data_rejection])
        if response.status_code >= 400 and "json" in response.headers.get("content-type", [""])[0]:
            error = response.json().get("error")
            if isinstance(error, dict):
                self.refused[error["code"]] += 1
        self._undo(case, response.status_code)

    def _undo(self, case: Case, status: int) -> None:
        if status != 200 or not case.path.startswith("/admin/") or case.method == "GET":
            return
        if case.path == "/admin/drain" and case.method == "POST":
            assert self.session.delete(f"{self.url}/admin/drain", timeout=WITHIN_S).status_code == 200
        elif case.path == "/admin/suspend" and case.method == "POST":
            assert self.session.delete(f"{self.url}/admin/suspend", timeout=WITHIN_S).status_code == 200
        elif case.path in ("/admin/models/load", "/admin/models/unload", "/admin/rollback", "/admin/try"):
            assert self.session.delete(f"{self.url}/admin/override", timeout=WITHIN_S).status_code == 200
            self.machine.until(lambda seen: seen["summary"] == "Ready")
