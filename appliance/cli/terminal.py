"""What a person or a program reads: colour and symbols on a terminal, plain lines in a pipe.

Verbs build blocks (`Line`, `Table`) and never ask where they go. Rich is imported on a terminal only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Span = str | tuple[str, str]  # text, or (text, style in Rich's words)


@dataclass(frozen=True)
class Line:
    """One line of text in pieces. `symbol` shows on a terminal only, where colour gives it meaning."""

    spans: tuple[Span, ...] = ()
    symbol: tuple[str, str] | None = None

    @property
    def plain(self) -> str:
        return "".join(span if isinstance(span, str) else span[0] for span in self.spans)


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[Span, ...], ...]

    @property
    def plain(self) -> str:
        """Columns two spaces apart, nothing cut off: lines of any length, for grep and awk."""
        cells = [self.header, *([text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )


Block = Line | Table


def line(*spans: Span, symbol: tuple[str, str] | None = None) -> Line:
    return Line(spans, symbol)


def table(header: Sequence[str], rows: Iterable[Sequence[Span]]) -> Table:
    return Table(tuple(header), tuple(tuple(row) for row in rows))


def text(span: Span) -> str:
    return span if isinstance(span, str) else span[0]


def on_terminal() -> bool:
    """Whether stdout is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def console(*, stderr: bool = False) -> Console:
    """Rich's console. It honours NO_COLOR by itself."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def show(*blocks: Block) -> None:
    if not on_terminal():
        print("\n".join(block.plain for block in blocks), flush=True)
        return
    screen = console()
    for block in blocks:
        screen.print(_rendered(block), soft_wrap=isinstance(block, Line))


def show_json(value: Any, *, one_line: bool = False) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2), flush=True)


def note(message: str) -> None:
    """Something worth knowing that is not the answer: stderr, so that a pipe stays clean."""
    print(f"lmx: {message}", file=sys.stderr, flush=True)


def refresh(frames: Iterable[Sequence[Block]]) -> None:
    """Show each frame in place of the one before; in a pipe, one after the other where it changed."""
    if not on_terminal():
        last = ""
        for blocks in frames:
            new = "\n".join(block.plain for block in blocks)
            if new != last:
                print(new + "\n", flush=True)
            last = new
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, vertical_overflow="visible") as live:
        for blocks in frames:
            live.update(Group(*(_rendered(block) for block in blocks)), refresh=True)


class Busy:
    """The line beside the spinner."""

    def say(self, message: str) -> None:
        """In a pipe nothing is said before the end."""


@contextmanager
def busy(message: str) -> Iterator[Busy]:
    """A spinner with a line of text on a terminal's stderr; silence elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        yield Busy()
        return
    with console(stderr=True).status(message) as status:

        class Spinner(Busy):
            def say(self, message: str) -> None:
                status.update(message)

        yield Spinner()


def _rendered(block: Block) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    if isinstance(block, Line):
        spans = ((f"{block.symbol[0]} ", block.symbol[1]), *block.spans) if block.symbol else block.spans
        return Text.assemble(*spans)
    grid = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), show_edge=False
    )
    for name in block.header:
        grid.add_column(name, overflow="fold", no_wrap=name not in ("NOTE", "MESSAGE", "WHY"))
    for row in block.rows:
        grid.add_row(*(Text.assemble(cell) for cell in row))
    return grid
