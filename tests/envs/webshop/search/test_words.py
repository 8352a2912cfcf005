from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_envs.webshop.search import words
from eto_envs.webshop.search.words import Analyzer, analyze, tokenize

# One or two characters of every class of word_breaks.json, letters more often.
ALPHABET = (
    "abcdeZñ ab 12 .:,'\"’-_＿#*©é\u0301\u00ad\ufe0e\ufe0f\u200d\u200d\u20e3😀🚀👩👍🏽🏿🇩🇪Ⓜℹ"
    "אבאב々漢あアァ가กขลั\u0e31\U000e0062\U000e007f𝐀𐀀１"
)


def rules() -> re.Pattern[str]:
    """The rules of StandardTokenizerImpl.jflex, one by one, over class letters."""
    marks, emoji_marks = "[xztpySgG]*", "[xzySgG]*"
    ah, hebrew, number, katakana = (f"[amNh]{marks}", f"h{marks}", f"1{marks}", f"k{marks}")
    low, mid_letter, mid_number = f"_{marks}", f"[:.']{marks}", f"[,.']{marks}"
    group = (
        f"(?:{katakana}(?:(?:{low})*{katakana})*"
        f"|(?:{hebrew}(?:'{marks}|\"{marks}{hebrew})"
        f"|{number}(?:(?:(?:{low})*|{mid_number}){number})*"
        f"|{ah}(?:(?:(?:{low})*|{mid_letter}){ah})*)+)"
    )
    word = f"(?:{low})*{group}(?:(?:{low})+{group})*(?:{low})*"
    element = f"(?:z*[ebm]{emoji_marks}p?|(?:z*b{emoji_marks})?o{emoji_marks})"
    emoji = f"{element}(?:(?:z{element})*|g+G)"
    keycap = f"[#]{emoji_marks}p?y{emoji_marks}"
    flag = f"(?:r{marks}){{2}}"
    other = f"(?:[sS]{marks})+|[nN]{marks}|i{marks}"
    return re.compile(f"{emoji}|{keycap}|{flag}|{word}|{other}")


RULES = rules()


def tokenize_slowly(text: str, max_units: int) -> list[str]:
    """At each position the longest match within the buffer, tried from the longest down."""
    kinds = text.translate(words._kinds())
    tokens, position = [], 0
    while position < len(text):
        end = position
        while end < len(text) and units(text[position : end + 1]) <= max_units:
            end += 1
        while end > position and not RULES.fullmatch(kinds, position, end):
            end -= 1
        if end > position:
            tokens.append(text[position:end])
        position = max(end, position + 1)
    return tokens


def units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("men's t-shirt, 3.5\" x 1,000.5mm", ["men's", "t", "shirt", "3.5", "x", "1,000.5mm"]),
        (
            "a_b __c__ _ 'd' e.f g. h:i j,k 1:2",
            [*("a_b", "__c__", "d", "e.f"), *("g", "h:i", "j", "k", "1", "2")],
        ),
        ("it’s ＇s", ["it’s", "s"]),
        ("カタカナひら漢字", ["カタカナ", "ひ", "ら", "漢", "字"]),
        ("ราคาถูก ok", ["ราคาถูก", "ok"]),
        ("צה\"ל ג' ד", ['צה"ל', "ג'", "ד"]),
        ("😀😀 👩🏽‍🚀! 🇩🇪🇫🇷 #️⃣ 1️⃣ Ⓜ️a", ["😀", "😀", "👩🏽‍🚀", "🇩🇪", "🇫🇷", "#️⃣", "1️⃣", "Ⓜ️a"]),
        ("© ™ ❤️ ‍", ["©", "™", "❤️"]),
        ("", []),
        ("... '' __ \u200d \u0301 \ud800", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("a" * 255, [255]),
        ("a" * 600, [255, 255, 90]),
        ("𝐀" * 200, [127, 73]),  # two UTF-16 units each: a half does not fit
        ("a" * 254 + ".b", [254, 1]),
        ("a" * 253 + ".b", [255]),
        ("_" * 300 + "a", [255]),
        ("_" * 300 + "𝐀", [254]),
        ("_" * 300, []),
        ("a" + "\u0301" * 300 + "b", [255, 1]),
        ("\u200d" * 300 + "😀", [254]),
    ],
)
def test_long_words_are_cut(text: str, lengths: list[int]) -> None:
    assert [len(token) for token in tokenize(text)] == lengths


@settings(deadline=None)
@given(st.text(ALPHABET, max_size=14), st.sampled_from([3, 4, 5, 6, 9, 255]))
def test_equals_the_rules_applied_one_by_one(text: str, max_units: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "MAX_TOKEN_UNITS", max_units)
        assert tokenize(text) == tokenize_slowly(text, max_units)


@settings(deadline=None)
@given(st.text() | st.text(ALPHABET))
def test_takes_any_text(text: str) -> None:
    tokens = tokenize(text)
    assert tokens == tokenize(text)
    position = 0
    for token in tokens:
        assert 0 < units(token) <= 255
        position = text.index(token, position) + len(token)
    assert all(analyze(text))
    assert analyze(text) == Analyzer().analyze(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The women’s Shoes and the men'S dresses", ["women", "shoe", "men", "dress"]),
        ("ΟΔΟΣ İstanbul", ["οδοσ", "istanbul"]),  # Java lowers letter by letter
        ("this is it", []),
        ("US", ["us"]),
        ("😀", ["😀"]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert analyze(text) == expected


ODD_TEXTS = {
    "letters": "a" * 100_000,
    "quotes": "'" * 100_000,
    "emoji": "😀" * 50_000,
    "dots": "a." * 50_000,
    "low lines": "_" * 100_000,
    "low lines, then a word": "_" * 99_000 + "a" * 300,
    "letters and low lines": "a_" * 50_000,
    "marked low lines": "_\u0301" * 50_000 + "a" * 300,
    "Thai marks and low lines": "_\u0e31" * 50_000 + "a",
    "joiners": "\u200d" * 100_000,
    "joiners, then an emoji": "\u200d" * 99_999 + "😀",
    "emoji, then joiners": "😀" + "\u200d" * 99_999,
    "letters that are emoji": "Ⓜ\u200d" * 50_000 + "😀",
    "marks": "👩" + "\u0301" * 99_999,
    "flags": "🇩\u0301" * 50_000,
    "keycaps": "#\u0301" * 50_000,
    "Hebrew": "א\"א'" * 25_000,
    "words of 200": " ".join("a" * 200 + "_" * 200 for _ in range(250)),
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_odd_texts_take_no_time(text: str) -> None:
    begun_s = time.process_time()
    analyze(text)
    assert time.process_time() - begun_s < 20  # well under a second; quadratic: minutes


def test_classes_are_disjoint_and_known() -> None:
    ranges = words._kinds()._ranges
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
    assert {kind for _, _, kind in ranges} == set(words._KIND_OF_CLASS.values())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_REMEMBERED", 100)
    analyzer = Analyzer(max_remembered=50)
    kinds = words._Kinds()
    monkeypatch.setattr(words, "_kinds", lambda: kinds)
    for code in range(0x4E00, 0x5000):
        assert analyzer.analyze(f"word{code} {chr(code)}") == [f"word{code}", chr(code)]
        assert len(analyzer._terms) <= 50
        assert len(kinds) <= 100


def test_imports_nothing_heavy() -> None:
    code = (
        "import sys; from eto_envs.webshop.search.words import analyze; "
        "assert analyze('Unheard-of Words') == ['unheard', 'word']; "
        "sys.exit('nltk' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
