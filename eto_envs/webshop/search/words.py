"""Text to words as the original's search sees it: Lucene 8.11's English analysis.

Five filters one after the other, those of Anserini's `DefaultEnglishAnalyzer` (pyserini 0.17.0):
`StandardTokenizer` (the word breaks of Unicode's UAX #29, and emoji by UTS #51), possessive,
lower case, stop words, Porter's stemmer (in `stems`). Each rule below is a rule of
`StandardTokenizerImpl.jflex`. Word breaks are looked up in `word_breaks.json`; the rules then run
on a string with one letter for the class of each character, so that they are short and
independent of the Unicode version of the Python that runs them.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from functools import cache
from importlib.resources import files

from eto_envs.webshop.search.stems import stem

MAX_TOKEN_UNITS = 255  # "DEFAULT_MAX_TOKEN_LENGTH = 255", in UTF-16 units
MAX_REMEMBERED = 65_536  # words and characters; an agent may send garbage for hours

_ENGLISH_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())
_POSSESSIVES = tuple(mark + s for mark in "'’＇" for s in "sS")

# One letter for each class of `word_breaks.json`; a blank for all other characters.
_KIND_OF_CLASS = {
    "ALetter": "a",
    "ALetter+Emoji": "m",  # such as Ⓜ
    "ALetter+Han": "N",
    "Hebrew_Letter": "h",
    "Numeric": "1",
    "Katakana": "k",
    "ExtendNumLet": "_",
    "MidLetter": ":",
    "MidNumLet": ".",
    "MidNum": ",",
    "Single_Quote": "'",
    "Double_Quote": '"',
    "ZWJ": "z",
    "Extend": "x",
    "Extend+Complex_Context": "S",
    "Extend+Text_Presentation": "t",
    "Extend+Emoji_Presentation": "p",
    "Extend+Keycap": "y",
    "Extend+Tag": "g",
    "Extend+Tag_End": "G",
    "Complex_Context": "s",  # Thai, Lao, Burmese, Khmer: runs are not divided
    "Han": "n",
    "Hiragana": "i",
    "Regional_Indicator": "r",
    "Keycap_Base": "#",  # and *; the digits are words anyway
    "Emoji": "e",
    "Emoji+Modifier_Base": "b",
    "Emoji_Modifier": "o",
}


def _token_rule() -> str:
    """The expression of one token, over class letters. Alternatives never need backtracking."""
    marks = "[xzpyStgG]*"  # belong to the character before them
    emoji_marks = "[xzySgG]*"  # the same without the two presentation selectors

    # Words. A Hebrew letter may end in ' or be joined by " to another one.
    letters = f"[amN]+{marks}"
    hebrew = f"h{marks}"
    letter = f"(?:{letters}|{hebrew})"
    hebrew_pair = f"{hebrew}(?:'{marks}|\"{marks}{hebrew})"
    digits = f"1+{marks}"
    item = f"(?:{hebrew_pair}|{letter}(?:[:.']{marks}{letter})*|{digits}(?:[,.']{marks}{digits})*)"
    core = f"(?:(?:k+{marks})+|{item}+)"
    low_lines = f"(?:_{marks})"
    word = f"{low_lines}*{core}(?:{low_lines}+{core})*{low_lines}*"

    # Emoji, joined by ZWJ. Characters that are letters too ("m") make an emoji only together with
    # one that is not: alone they are words, and the longer match wins.
    emoji_follows = "(?=[ebmo])"
    modified = f"(?:b{emoji_marks})?o"
    join_modified = f"{emoji_marks}z{emoji_follows}"
    join = f"{emoji_marks}(?:z{emoji_follows}|p(?:z+(?=[ebm])|z(?=o)))"
    head = f"(?:z+(?=[ebm])|(?:m{join})+(?=[ebo])|(?=[ebo]))"
    sequence = (
        f"(?:{modified}{join_modified}|[ebm]{join})*"
        f"(?:{modified}{emoji_marks}|[ebm]{emoji_marks}p?)"
    )
    tagged = f"(?:z+[ebm]|[eb]){emoji_marks}pg+G"
    keycap = f"#{emoji_marks}p?y{emoji_marks}"
    flag = f"r{marks}r{marks}"
    emoji = f"{tagged}|{head}{sequence}|{keycap}|{flag}"

    other = f"[sS][xzpyStgGs]*|n{marks}|i{marks}"
    return f"{emoji}|{word}|{other}"


# Runs in which no token starts are taken in one go: tried from each of their characters, the
# rules for words and emoji would take quadratic time.
_NO_TOKEN = "(?:_[xzpytgG]*)*_[xpytgG]*|z+"
_RULES = re.compile(f"({_token_rule()})|{_NO_TOKEN}")
_FIRST = re.compile("[^ xtpygG:.,'\"]")  # the classes that a token can start with
_NEEDED = {  # a token that starts with this class holds one of those
    "_": re.compile("[amNh1k]"),
    "z": re.compile("[ebm]"),
}


class _Kinds(dict[int, str]):
    """Code point to class letter, filled as characters are met; for `str.translate`."""

    def __init__(self) -> None:
        """Read the table of classes."""
        table = json.loads(files(__package__).joinpath("word_breaks.json").read_text("utf-8"))
        ranges = []
        for name, text in table["classes"].items():
            for item in text.split():
                first, _, last = item.partition("-")
                ranges.append((int(first, 16), int(last or first, 16), _KIND_OF_CLASS[name]))
        ranges.sort()
        self._firsts = [first for first, _, _ in ranges]
        self._ranges = ranges

    def __missing__(self, code: int) -> str:
        """Look a character up and remember it."""
        at = bisect_right(self._firsts, code) - 1
        kind = " "
        if at >= 0 and code <= self._ranges[at][1]:
            kind = self._ranges[at][2]
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[code] = kind
        return kind


@cache
def _kinds() -> _Kinds:
    return _Kinds()


def tokenize(text: str) -> list[str]:
    """Divide text into the tokens of Lucene's `StandardTokenizer`.

    Args:
        text: any text.

    Returns:
        The tokens as they stand in the text, none empty, none over 255 UTF-16 units.
    """
    kinds = text.translate(_kinds())
    tokens: list[str] = []
    if "S" in kinds and "_" in kinds:
        _cut(text, kinds, 0, len(text), tokens)  # the one mixture that could take quadratic time
        return tokens
    position = 0
    while found := _RULES.search(kinds, position):
        start, position = found.span()
        if found.lastindex is None:
            continue
        if position - start <= MAX_TOKEN_UNITS // 2 or _window_end(text, start) >= position:
            tokens.append(text[start:position])
        else:
            position = _cut(text, kinds, start, position, tokens)
    return tokens


def _window_end(text: str, start: int) -> int:
    """Where the tokenizer's buffer ends, which holds 255 UTF-16 units from a token's start."""
    window = text[start : start + MAX_TOKEN_UNITS]
    if window.isascii() or max(window) <= "\uffff":
        return start + len(window)
    n_units = 0
    for offset, letter in enumerate(window):
        n_units += 1 + (letter > "\uffff")
        if n_units > MAX_TOKEN_UNITS:
            return start + offset
    return start + len(window)


def _cut(text: str, kinds: str, start: int, end: int, tokens: list[str]) -> int:
    """Tokenize as the original does where tokens are long: the rules see 255 units at a time.

    Args:
        text: the whole text.
        kinds: its class letters.
        start: where to begin.
        end: begin no token at or after this position.
        tokens: the tokens are added to this list.

    Returns:
        The position after the last token, or `end` where that is later.
    """
    position = start
    nearest = dict.fromkeys(_NEEDED, -1)
    while (found := _FIRST.search(kinds, position, end)) is not None:
        position = found.start()
        kind = kinds[position]
        if kind in nearest:
            if nearest[kind] < position:
                needed = _NEEDED[kind].search(kinds, position)
                nearest[kind] = needed.start() if needed is not None else len(kinds)
            if nearest[kind] >= position + MAX_TOKEN_UNITS:
                position += 1
                continue
        token = _RULES.match(kinds, position, position + MAX_TOKEN_UNITS)
        if token is not None and token.lastindex is not None:
            # Again with the exact window: letters beyond U+FFFF take two units.
            token = _RULES.match(kinds, position, _window_end(text, position))
        if token is None or token.lastindex is None:
            position += 1
        else:
            tokens.append(text[position : token.end()])
            position = token.end()
    return max(position, end)


def _lower(word: str) -> str:
    """Lower case letter by letter, as Java does it: no final sigma, one letter for one letter."""
    if word.isascii():
        return word.lower()
    return "".join(letter.lower()[0] for letter in word)


def _term(token: str) -> str:
    """The indexed form of a token; empty for a stop word."""
    if token.endswith(_POSSESSIVES):
        token = token[:-2]
    word = _lower(token)
    return "" if word in STOP_WORDS else stem(word)


class Analyzer:
    """Text to index terms, remembering the words it has met."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        """Start with an empty memory.

        Args:
            max_remembered: forget all words when this many are remembered.
        """
        self._max_remembered = max_remembered
        self._terms: dict[str, str] = {}

    def analyze(self, text: str) -> list[str]:
        """The terms of a text, in order, with repetitions and without stop words."""
        known = self._terms
        terms = []
        for token in tokenize(text):
            term = known.get(token)
            if term is None:
                term = _term(token)
                if len(known) >= self._max_remembered:
                    known.clear()
                known[token] = term
            if term:
                terms.append(term)
        return terms


analyze = Analyzer().analyze
