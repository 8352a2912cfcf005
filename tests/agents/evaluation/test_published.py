"""Published numbers: enough of them, with sources; the averages are those that sources print."""

from __future__ import annotations

import math

import pytest

from eto_agents.evaluation.published import COLUMNS, load_published, parse_published
from eto_envs.errors import CorruptDataError

PUBLISHED = load_published()


def test_rows_have_sources_and_protocols() -> None:
    assert len(PUBLISHED.rows) >= 40
    for row in PUBLISHED.rows:
        assert row.source in PUBLISHED.sources
        assert row.protocol in PUBLISHED.protocols
        assert row.model
    assert len({repr(row) for row in PUBLISHED.rows}) == len(PUBLISHED.rows)


@pytest.mark.parametrize(
    ("method", "model", "source", "printed"),
    [
        ("ReAct prompting", "GPT-4", "eto", 54.7),
        ("Reflexion", "GPT-4o", "qlass", 58.0),
        ("SFT", "Llama-2-7B-Chat", "eto", 62.1),
        ("Best-of-10", "Llama-2-7B-Chat", "eto", 64.6),
        ("RFT", "Llama-2-7B-Chat", "eto", 63.8),
        ("PPO", "Llama-2-7B-Chat", "eto", 45.3),
        ("ETO", "Llama-2-7B-Chat", "eto", 69.4),
        ("QLASS", "Llama-2-7B-Chat", "qlass", 74.5),
        ("Q-Evolve", "Llama-2-7B-Chat", "qevolve", 79.4),
        ("SFT", "Llama-3.1-8B", "mpo", 67.3),
        ("ETO", "Llama-3.1-8B", "mpo", 75.5),
        ("KnowAgent", "Llama-3.1-8B", "mpo", 74.2),
        ("WKM", "Llama-3.1-8B", "mpo", 76.2),
        ("ETO and MPO", "Llama-3.1-8B", "mpo", 79.7),
        ("Q-Evolve", "Llama-3-8B", "qevolve", 84.0),
        ("prompting", "Qwen2.5-7B", "mpo", 56.5),
        ("MPO, prompting", "GPT-4o", "mpo", 76.8),
    ],
)
def test_averages_are_those_that_the_sources_print(
    method: str, model: str, source: str, printed: float
) -> None:
    found = [
        row
        for row in PUBLISHED.rows
        if (row.method, row.model, row.source) == (method, model, source)
        and set(row.values) == set(COLUMNS)
    ]
    assert [row.average for row in found] == [pytest.approx(printed, abs=0.06)]


def test_no_average_of_a_part() -> None:
    assert all(math.isnan(row.average) for row in PUBLISHED.rows if set(row.values) != set(COLUMNS))


HEAD = '[sources]\ns = "S"\n[protocols]\neto = "P"\n'
ROW = '[[row]]\nmethod = "m"\nmodel = "b"\nprotocol = "eto"\nsource = "s"\nwebshop = 1.0\n'


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ROW + "speed = 1\n",
        HEAD + ROW.replace("1.0", "101"),
        HEAD + ROW.replace('"s"', '"t"'),
        HEAD + ROW + 'metric = "luck"\n',
        HEAD + ROW.replace("webshop = 1.0", ""),
        HEAD,
        "[[",
    ],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    assert parse_published(HEAD + ROW, "x").rows[0].values == {"webshop": 1.0}
    with pytest.raises(CorruptDataError, match=r"^x\.toml"):
        parse_published(text, "x.toml")
