"""From text to index terms, as in the original's search: Lucene 8.11's English analysis.

The steps are those of Anserini's `DefaultEnglishAnalyzer` (pyserini 0.17.0): `StandardTokenizer`
(word breaks by Unicode's UAX #29, emoji by UTS #51), possessives, lower case, stop words, and
Porter's stemmer (in `stems`). Each rule below corresponds to a rule of
`StandardTokenizerImpl.jflex`. The class of every character is looked up in `word_breaks.json` and
represented by a letter, and the rules are regular expressions over these letters: they are short,
and independent of Python's Unicode version.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from functools import cache
from importlib.resources import files

from eto_envs.webshop.search.stems import stem

MAX_TOKEN_UNITS = 255  # "DEFAULT_MAX_TOKEN_LENGTH = 255", in UTF-16 units
MAX_REMEMBERED = 65_536  # size of caches, which an agent could otherwise fill with garbage

_ENGLISH_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())
_POSSESSIVES = tuple(mark + s for mark in "'’＇" for s in "sS")

# A letter for each class of `word_breaks.json`; a space for all other characters.
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
    "Complex_Context": "s",  # Thai, Lao, Burmese, Khmer: runs are not split
    "Han": "n",
    "Hiragana": "i",
    "Regional_Indicator": "r",
    "Keycap_Base": "#",  # and *; digits are words anyway
    "Emoji": "e",
    "Emoji+Modifier_Base": "b",
    "Emoji_Modifier": "o",
}


def _token_rule() -> str:
    """The regular expression of a token over class letters; it never requires backtracking."""
    marks = "[xzpyStgG]*"  # attached to the character before them
    emoji_marks = "[xzySgG]*"  # the same without the two presentation selectors

    # Words. A Hebrew letter can be followed by ', or joined to another one by ".
    letters = f"[amN]+{marks}"
    hebrew = f"h{marks}"
    letter = f"(?:{letters}|{hebrew})"
    hebrew_pair = f"{hebrew}(?:'{marks}|\"{marks}{hebrew})"
    digits = f"1+{marks}"
    item = f"(?:{hebrew_pair}|{letter}(?:[:.']{marks}{letter})*|{digits}(?:[,.']{marks}{digits})*)"
    core = f"(?:(?:k+{marks})+|{item}+)"
    low_lines = f"(?:_{marks})"
    word = f"{low_lines}*{core}(?:{low_lines}+{core})*{low_lines}*"

    # Emoji, joined by ZWJ. Characters that are also letters ("m") form an emoji only together with
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


# Runs in which no token starts are matched as a whole: trying the rules for words and emoji at each
# of their characters would take quadratic time.
_NO_TOKEN = "(?:_[xzpytgG]*)*_[xpytgG]*|z+"
_RULES = re.compile(f"({_token_rule()})|{_NO_TOKEN}")
_FIRST = re.compile("[^ xtpygG:.,'\"]")  # the classes with which a token can start
_NEEDED = {  # a token that starts with this class contains one of those
    "_": re.compile("[amNh1k]"),
    "z": re.compile("[ebm]"),
}


class _Kinds(dict[int, str]):
    """The class letter of every code point, computed on demand; for `str.translate`."""

    def __init__(self) -> None:
        """Read the table of classes, which lists ranges of code points in hexadecimal."""
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
        """Look up a character and cache its class."""
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
    """Split text into the tokens of Lucene's `StandardTokenizer`.

    Args:
        text: any text.

    Returns:
        The tokens, as they occur in the text; each has 1 to 255 UTF-16 units.
    """
    kinds = text.translate(_kinds())
    tokens: list[str] = []
    if "S" in kinds and "_" in kinds:
        # This mixture could take quadratic time with `search`, but not with windows.
        _tokenize_in_windows(text, kinds, 0, len(text), tokens)
        return tokens
    position = 0
    while found := _RULES.search(kinds, position):
        start, position = found.span()
        if found.lastindex is None:
            continue
        if position - start <= MAX_TOKEN_UNITS // 2 or _window_end(text, start) >= position:
            tokens.append(text[start:position])
        else:
            position = _tokenize_in_windows(text, kinds, start, position, tokens)
    return tokens


def _window_end(text: str, start: int) -> int:
    """The end of the tokenizer's buffer, which holds 255 UTF-16 units from the start of a token."""
    window = text[start : start + MAX_TOKEN_UNITS]
    if window.isascii() or max(window) <= "\uffff":
        return start + len(window)
    n_units = 0
    for offset, letter in enumerate(window):
        n_units += 1 + (letter > "\uffff")
        if n_units > MAX_TOKEN_UNITS:
            return start + offset
    return start + len(window)


def _tokenize_in_windows(text: str, kinds: str, start: int, end: int, tokens: list[str]) -> int:
    """Tokenize as the original does if tokens are long: the rules only see 255 units at a time.

    Args:
        text: the whole text.
        kinds: its class letters.
        start: where to begin.
        end: no token begins at or after this position.
        tokens: the list to which tokens are added.

    Returns:
        The position after the last token, or `end` if that is later.
    """
    position = start
    # For each class in `_NEEDED`, the next position of a character that its tokens require: where
    # that is out of the window, there is no need to try the rules.
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
            # Again with the exact window: characters above U+FFFF take two units.
            token = _RULES.match(kinds, position, _window_end(text, position))
        if token is None or token.lastindex is None:
            position += 1
        else:
            tokens.append(text[position : token.end()])
            position = token.end()
    return max(position, end)


def _lower(word: str) -> str:
    """Lower case by character, as in Java: no final sigma, and the length is preserved."""
    if word.isascii():
        return word.lower()
    return "".join(letter.lower()[0] for letter in word)


def _term(token: str) -> str:
    """The index term of a token; empty for a stop word."""
    if token.endswith(_POSSESSIVES):
        token = token[:-2]
    word = _lower(token)
    return "" if word in STOP_WORDS else stem(word)


class Analyzer:
    """Converts text to index terms, with a cache of words."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        """Start with an empty cache.

        Args:
            max_remembered: the number of words at which the cache is cleared.
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
