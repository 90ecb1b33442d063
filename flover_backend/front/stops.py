"""Finds stop strings in a text that arrives in pieces.

The algorithm is Knuth, Morris and Pratt's (1977), one automaton a stop string: on average a character costs a constant
number of steps, and an automaton's state says how much of the text's end could be the start of its string, which is
exactly what must be held back. Knows no tokens.
"""

from __future__ import annotations


class _Automaton:
    """Where one pattern stands in the text read so far."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.matched = 0
        """How many characters at the text's end are the pattern's first; a full match stays full until `advance`."""
        self._fallback = _fallbacks(pattern)

    def advance(self, character: str) -> bool:
        """Read one character; True when the pattern ends with it."""
        matched = self.matched
        while matched and (matched == len(self.pattern) or self.pattern[matched] != character):
            matched = self._fallback[matched]
        self.matched = matched + (self.pattern[matched] == character)
        return self.matched == len(self.pattern)


def _fallbacks(pattern: str) -> list[int]:
    """Entry k: the longest proper border of the pattern's first k characters."""
    table = [0, 0]
    border = 0
    for character in pattern[1:]:
        while border and pattern[border] != character:
            border = table[border]
        border += pattern[border] == character
        table.append(border)
    return table


class StopFinder:
    """The stop strings of one sequence. Text comes out of `push` as soon as it cannot be part of a stop string."""

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._automata = [_Automaton(string) for string in strings]
        self._held = ""

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """(text that is free to go, whether a stop string was found). After a find nothing may be pushed.

        Of stop strings that end at the same character the longest counts. With `may_stop` false (the sequence has too
        few tokens yet) a string that ends within `text` is not one.
        """
        for position, character in enumerate(text):
            found = [a for a in self._automata if a.advance(character)]
            if found and may_stop:
                longest = max(len(a.pattern) for a in found)
                before = self._held + text[: position + 1]
                self._held = ""
                return before[: len(before) - longest], True
        self._held += text
        return self._release(max((self._open_length(a) for a in self._automata), default=0)), False

    def flush(self) -> str:
        """What was held back, at the end of the sequence."""
        return self._release(0)

    def _release(self, keep: int) -> str:
        cut = len(self._held) - keep
        free, self._held = self._held[:cut], self._held[cut:]
        return free

    @staticmethod
    def _open_length(automaton: _Automaton) -> int:
        """Of a full match that did not count, only what may begin another match is held."""
        matched = automaton.matched
        return matched if matched < len(automaton.pattern) else automaton._fallback[matched]
