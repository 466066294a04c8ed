"""A Python function as a tool: found, described by its signature, and called with arguments that fit it.

The signature, its annotations and the docstring are all there is to write. pydantic reads them; each call's
arguments are checked by the same reading, which also turns them into what the annotations say (dates,
enums, models). JSON from models is taken leniently: "3" will do for a whole number.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import os
import resource
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, PydanticSerializationError, to_json

from appliance.skills.messages import Call, Outcome, Result, Setup, Tool, printable

PROBLEMS = 5  # mistakes in arguments that the model is told of at a time
LONG = 1000  # characters of an error message that the model is told


class Unusable(Exception):
    """The function cannot be a tool; the message is for the operator."""


class Function:
    """Raises Unusable."""

    def __init__(self, setup: Setup) -> None:
        self._most, self._seconds = setup.result, setup.seconds
        _limit_memory(setup.memory)
        self._function = _find(setup)
        self._arguments = _reading(self._function, setup.python or "")
        try:
            schema = self._arguments.json_schema()
        except PydanticUserError as error:
            raise Unusable(
                f"the parameters of {setup.python} have no JSON Schema: {error.message}"
            ) from error
        if schema.get("type") != "object":
            raise Unusable(f"{setup.python} has parameters without names; models give arguments by name")
        description = setup.description or inspect.getdoc(self._function)
        if not description:
            text = "has neither docstring nor description, and models choose by them"
            raise Unusable(f"{setup.python} {text}")
        self.tool = Tool(setup.name, printable(description), _plain(schema))

    def run(self, call: Call) -> Result:
        _limit_time(self._seconds)
        outcome, text = self._run(call.arguments)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the skill may have closed it
                stream.flush()
        text = printable(text)
        if len(text.encode()) > self._most:
            size = f"{len(text.encode())} bytes, and {self._most} is the most"
            outcome, text = "too_large", f"the result has {size}; ask for less"
        return Result(call.number, outcome, text)

    def _run(self, given: dict[str, Any]) -> tuple[Outcome, str]:
        try:
            args, kwargs = self._arguments.validate_python(ArgsKwargs((), given))
        except ValidationError as error:
            return "invalid_arguments", _mistakes(error)
        try:
            found = self._function(*args, **kwargs)
            if inspect.iscoroutine(found):
                found = asyncio.run(found)
            return "ok", found if isinstance(found, str) else to_json(found).decode()
        except MemoryError:
            return "out_of_memory", "it needed more memory than it may have"
        except PydanticSerializationError as error:
            return "error", f"its result has no form in JSON: {error}"[:LONG]
        except ValueError as error:  # how Python code says that an argument is no good
            traceback.print_exc()
            return "refused", f"{type(error).__name__}: {error}"[:LONG]
        except BaseException as error:  # noqa: BLE001 - a skill that calls sys.exit is no reason to end either
            traceback.print_exc()
            return "error", f"{type(error).__name__}: {error}"[:LONG]


def _find(setup: Setup) -> Callable[..., Any]:
    """The function, from a module that lies in the folder of lmx.yaml and nowhere else."""
    module, _, name = (setup.python or "").partition(":")
    folder = str(Path(setup.folder).resolve())
    top = module.partition(".")[0]
    if PathFinder.find_spec(top, [folder]) is None:
        raise Unusable(f"there is no module {top} in {folder}, where lmx.yaml lies")
    if top in sys.modules:
        raise Unusable(f"the name {top} is taken by a module that LMX uses; rename yours")
    sys.dont_write_bytecode = True  # two edits within a second would look like one
    sys.path.insert(0, folder)
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise Unusable(f"{module} has no {name}: {error}") from error
    except BaseException as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"{module} cannot be imported: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        )
        raise Unusable(text[:LONG]) from error
    if not callable(found) or inspect.isclass(found):
        raise Unusable(f"{setup.python} is no function, but {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _reading(function: Callable[..., Any], name: str) -> TypeAdapter[Any]:
    """Reads arguments as `function` would take them, and hands them back."""

    @functools.wraps(function)
    def taken(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    form: Any = taken
    try:
        return TypeAdapter(form)
    except (PydanticUserError, NameError, TypeError) as error:
        raise Unusable(f"the parameters of {name} cannot be read: {error}") from error


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles that only repeat the names: they cost tokens in every prompt."""
    properties = {
        name: {key: value for key, value in form.items() if key != "title"}
        for name, form in schema.get("properties", {}).items()
    }
    return {**{key: value for key, value in schema.items() if key != "title"}, "properties": properties}


def _mistakes(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in found[:PROBLEMS]]
    return "; ".join(told)[:LONG]


def _limit_memory(more: int) -> None:
    """From here on the process may map so many bytes more. macOS does not hold programs to it."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: float) -> None:
    """Processor time of the next call, over all cores: for what the parent's clock does not reach, such as a
    process that a call has started in a session of its own."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    most = int(use.ru_utime + use.ru_stime + seconds * (os.cpu_count() or 1)) + 2
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
