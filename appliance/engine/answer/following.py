"""One JSON value (RFC 8259), checked character by character while it is written.

`json.loads` says what is wrong with a whole text. Here the question is whether what has come so far can still
become a value, and where that value ends.
"""

from __future__ import annotations

import re

SPACE = frozenset(" \t\n\r")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_SO_FAR = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*|(\.[0-9]+)?[eE][+-]?[0-9]*)?)?")
_WORDS = ("true", "false", "null")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
DEPTH = 200  # containers in each other; json.loads, with which clients read, gives up some way above it


class NotJson(ValueError):
    """No text that begins so is a JSON value."""


class Follower:
    """`feed` it the value from its first character on.

    A container or string is `done` with its closing character. A number may always go on: the first
    character that is not its own ends it, and is not taken.
    """

    def __init__(self) -> None:
        self.done = False
        self._in_string = False
        self._stack: list[str] = []  # the closing characters still to come
        self._wants = "value"  # value | first | key | colon | next, of the innermost container
        self._key = False  # the string in work is a key
        self._escape = ""  # a backslash and what followed it
        self._word = ""  # a number or literal in work

    def takes(self, c: str) -> bool:
        """Whether JSON lets it stand here. Only control characters in strings may not."""
        return c >= " " or not self._in_string or bool(self._escape)

    def feed(self, c: str) -> bool:
        """Take one character; False: the value ended before it. Raises NotJson."""
        if self.done:
            return False
        if self._in_string:
            self._string(c)
            return True
        if self._word:
            if self._more(self._word + c):
                self._word += c
                return True
            if not (_NUMBER.fullmatch(self._word) or self._word in _WORDS):
                raise NotJson("a number or word is not one of JSON's")
            self._word = ""
            if self._ended():
                return False
        if c not in SPACE:
            self._sign(c)
        return True

    def _string(self, c: str) -> None:
        if self._escape:
            self._escape += c
            if self._escape[1] == "u":
                if c != "u" and c not in _HEX:
                    raise NotJson("an escape is not one of JSON's")
                if len(self._escape) == 6:
                    self._escape = ""
            elif c in _ESCAPES:
                self._escape = ""
            else:
                raise NotJson("an escape is not one of JSON's")
        elif c == "\\":
            self._escape = c
        elif c == '"':
            self._in_string = False
            if self._key:
                self._wants = "colon"
            else:
                self._ended()
        elif c < " ":
            raise NotJson("a string holds a control character")

    def _sign(self, c: str) -> None:
        """A character outside strings, numbers and words."""
        wants = self._wants
        if wants == "colon":
            if c != ":":
                raise NotJson("a key has no colon")
            self._wants, self._key = "value", False
        elif wants == "next" or (wants == "first" and c == self._stack[-1]):
            if c == self._stack[-1]:
                self._stack.pop()
                self._ended()
            elif c == "," and wants == "next":
                self._wants = "key" if self._stack[-1] == "}" else "value"
            else:
                raise NotJson("a comma or a closing bracket is missing")
        elif c == '"':
            self._in_string = True
            self._key = bool(self._stack) and self._stack[-1] == "}" and wants in ("first", "key")
        elif wants == "key" or (wants == "first" and self._stack[-1] == "}"):
            raise NotJson("a key is not a string")
        elif c in "{[":
            if len(self._stack) == DEPTH:
                raise NotJson(f"more than {DEPTH} containers are in each other")
            self._stack.append("}" if c == "{" else "]")
            self._wants = "first"
        elif self._more(c):
            self._word = c
        else:
            raise NotJson("a value is missing")

    def _ended(self) -> bool:
        """A value ended; whether it was the outermost."""
        self._wants = "next"
        self.done = not self._stack
        return self.done

    @staticmethod
    def _more(word: str) -> bool:
        return bool(_NUMBER_SO_FAR.fullmatch(word)) or any(known.startswith(word) for known in _WORDS)


def escaped(c: str) -> str:
    """A control character as a JSON string must write it: models write line breaks as they are."""
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(c) or f"\\u{ord(c):04x}"
