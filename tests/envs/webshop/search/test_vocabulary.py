from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_envs.webshop.search import vocabulary
from eto_envs.webshop.search.vocabulary import Vocabulary

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


@given(st.sets(WORDS), st.lists(st.text(max_size=4)))
def test_finds_what_is_there(known: set[str], asked: list[str]) -> None:
    rows = {word: row for row, word in enumerate(sorted(known))}
    words = Vocabulary.build(sorted(known))
    assert len(words) == len(known)
    for word in [*asked, *known]:
        assert words.find(word) == rows.get(word, -1)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "MAX_REMEMBERED", 10)
    words = Vocabulary.build(["a", "b"])
    for number in range(100):
        assert words.find(str(number)) == -1
        assert words.find("b") == 1
        assert len(words._found) <= 10
