from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_envs.webshop.search import stems
from eto_envs.webshop.search.stems import stem

SUFFIXES = [suffix for suffix, _ in (*stems._STEP_3, *stems._STEP_4)]
SUFFIXES += [*stems._STEP_5, "s", "sses", "ies", "ss", "eed", "ed", "ing", "y", "e", "ll", "ion"]
WORDS = st.builds(
    lambda root, suffixes: root + "".join(suffixes),
    st.text("abeioytlszxé", max_size=6),
    st.lists(st.sampled_from(SUFFIXES), max_size=3),
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("os", "os"),
        ("trekking", "trek"),
        ("technologies", "technolog"),
        ("possibly", "possibl"),
        ("dresses", "dress"),
        ("relational", "relat"),
        ("agreed", "agre"),
        ("filing", "file"),
        ("controlling", "control"),
        ("𝐀s", "𝐀"),
        ("𝐀𝐀ed", "𝐀𝐀ed"),
        ("𝐀a𝐀𝐀ing", "𝐀a𝐀𝐀"),
    ],
)
def test_words(word: str, expected: str) -> None:
    assert stem(word) == expected


@settings(deadline=None, max_examples=500)
@given(WORDS)
def test_equals_the_stemmer_of_nltk(word: str) -> None:
    porter = pytest.importorskip("nltk.stem.porter").PorterStemmer(mode="MARTIN_EXTENSIONS")
    assert stem(word) == porter.stem(word)


@given(st.text())
def test_takes_any_text(word: str) -> None:
    result = stem(word)
    assert len(result) <= len(word) + 1
    assert bool(result) == bool(word)
