"""The process in which code of a model runs: limits first, then the code, then its cases. Standard library
only.

Run as `python -I -S code_child.py`, never imported for running. Reads one JSON object from standard input:
`source`, `function`, `cases` ([[arguments], result]), `seconds`, `memory`. Answers with `{"why": ""}` where
all is right. What the code prints goes nowhere.
"""

from __future__ import annotations

import builtins
import importlib
import io
import json
import resource
import sys
from types import SimpleNamespace
from typing import Any

# module -> what code may use of it. Nothing here reads, writes, evaluates text or reaches attributes by name.
MODULES: dict[str, tuple[str, ...]] = {
    "math": (
        "ceil", "comb", "cos", "e", "exp", "fabs", "factorial", "floor", "fsum", "gcd", "hypot", "inf",
        "isclose", "isfinite", "isinf", "isnan", "isqrt", "lcm", "log", "log10", "log2", "nan", "pi",
        "pow", "prod", "sin", "sqrt", "tan", "trunc",
    ),
    "itertools": (
        "accumulate", "chain", "combinations", "compress", "count", "cycle", "dropwhile", "filterfalse",
        "groupby", "islice", "pairwise", "permutations", "product", "repeat", "starmap", "takewhile",
        "zip_longest",
    ),
    "functools": ("cache", "lru_cache", "reduce"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "heapq": ("heapify", "heappop", "heappush", "nlargest", "nsmallest"),
    "bisect": ("bisect", "bisect_left", "bisect_right", "insort"),
    "string": ("ascii_letters", "ascii_lowercase", "ascii_uppercase", "digits", "punctuation", "whitespace"),
    "re": ("IGNORECASE", "compile", "findall", "finditer", "fullmatch", "match", "search", "split", "sub"),
    "typing": (
        "Any", "Dict", "Iterable", "Iterator", "List", "Optional", "Sequence", "Set", "Tuple", "Union",
    ),
    "collections.abc": ("Iterable", "Iterator", "Mapping", "Sequence"),
    "__future__": ("annotations",),
}  # fmt: skip
BUILTINS = (
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex",
    "dict", "divmod", "enumerate", "filter", "float", "format", "frozenset", "hash", "hex", "int",
    "isinstance", "issubclass", "iter", "len", "list", "map", "max", "min", "next", "object", "oct",
    "ord", "pow", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum",
    "tuple", "type", "zip", "True", "False", "None", "Exception", "ArithmeticError", "AssertionError",
    "IndexError", "KeyError", "LookupError", "NotImplementedError", "OverflowError", "RecursionError",
    "RuntimeError", "StopIteration", "TypeError", "ValueError", "ZeroDivisionError",
)  # fmt: skip


def limit(seconds: int, memory: int) -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except ValueError:  # macOS has no limit on address space: processor and clock remain
            if kind != resource.RLIMIT_AS:
                raise


def given(name: str, globals_: Any = None, locals_: Any = None, wanted: Any = (), level: int = 0) -> Any:
    """What `import` gives: the listed names of the module, and no way on from there."""
    if level or name not in MODULES:
        raise ImportError(f"{name} is not here")
    module = importlib.import_module(name)
    return SimpleNamespace(**{member: getattr(module, member) for member in MODULES[name]})


def judge(function: Any, cases: list[Any]) -> str:
    for arguments, wanted in cases:
        shown = ", ".join(map(repr, arguments))
        try:
            found = function(*arguments)
        except Exception as error:  # noqa: BLE001  whatever it raises is what is wrong with it
            return f"({shown}) raises {type(error).__name__}"
        if isinstance(found, tuple):  # JSON has no tuples: the cases cannot ask for one
            found = list(found)
        if isinstance(wanted, bool) is not isinstance(found, bool) or found != wanted:
            return f"({shown}) gives {found!r:.60} instead of {wanted!r}"
    return ""


def main() -> None:
    task = json.loads(sys.stdin.read())
    for name in MODULES:  # before the limits: a module is a file that is opened
        importlib.import_module(name)
    answer, sys.stdout = sys.stdout, io.StringIO()
    limit(task["seconds"], task["memory"])
    allowed = {name: getattr(builtins, name) for name in (*BUILTINS, "__build_class__")}
    # Its own name, so that what an answer does as a program of its own stays out.
    names: dict[str, Any] = {"__builtins__": allowed | {"__import__": given}, "__name__": "answer"}
    try:
        exec(compile(task["source"], "answer", "exec"), names)
        why = judge(names[task["function"]], task["cases"])
        why = why and f"{task['function']}{why}"
    except BaseException as error:  # noqa: BLE001  SystemExit and MemoryError too: all of it is the answer's
        why = f"it raises {type(error).__name__}: {str(error)[:80]}"
    answer.write(json.dumps({"why": why}))
    answer.flush()


if __name__ == "__main__":
    main()
