"""What is wrong with a file, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Place:
    """A position in the text. Both count from 1, as editors do. file: "" is the one that is being read."""

    line: int
    column: int
    file: str = ""


@dataclass(frozen=True)
class Problem:
    """One line of the report. `path` is the key's dotted path, empty when the text itself is broken."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        key = f"{self.path}: " if self.path else ""
        meant = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return f"{where}{key}{self.message}{meant}"


class SpecError(ValueError):
    """A file that cannot be a spec. Holds every problem found, in the order of the file."""

    SHOWN = 25

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        files = list(dict.fromkeys(problem.file for problem in problems))
        order = sorted(problems, key=lambda found: (files.index(found.file), found.line, found.column))
        self.problems = tuple(order)
        lines = [str(problem) for problem in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"... and {len(self.problems) - self.SHOWN} more")
        super().__init__("\n".join(lines))


Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """A problem before it knows its file. `loc` is the path of the value, by key and index."""

    place: Place
    message: str
    loc: Loc = ()
    suggestion: str = ""

    def of(self, file: str) -> Problem:
        words = _printable(self.message), _printable(self.suggestion)
        return Problem(self.place.file or file, self.place.line, self.place.column, dotted(self.loc), *words)


def _printable(text: str) -> str:
    """What a terminal may print: a file must not be able to colour or forge the lines about it."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def dotted(loc: Loc) -> str:
    """`models.daily.aliases[0]`."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            short = part if len(part) <= 64 else f"{part[:61]}..."
            path += ("." if path else "") + _printable(short)
    return path
