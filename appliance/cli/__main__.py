"""Where the `lmx` command starts: runs a verb, turns expected failures into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from appliance.cli.failure import ERROR, INTERRUPTED, CliError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. The exit status, as `failure.py` lists them."""
    from appliance.cli import completion, verbs

    completion.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["--version"]:
            words = ["version"]
        if not words:
            words = ["--help"]
        result = verbs.app(words, prog_name="lmx", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CliError as error:
        print(f"lmx: {error.message}", file=sys.stderr)
        return error.code
    except typer.TyperException as error:
        print(f"lmx: {error.format_message()} See `lmx {_verb(words)}--help`.", file=sys.stderr)
        return ERROR
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _verb(words: Sequence[str]) -> str:
    """The verb whose help has more to say; nothing where there is no such verb."""
    from appliance.cli import verbs

    known = {command.name for command in typer.main.get_group(verbs.app).commands.values()}
    return f"{words[0]} " if words and words[0] in known else ""


if __name__ == "__main__":
    sys.exit(main())
