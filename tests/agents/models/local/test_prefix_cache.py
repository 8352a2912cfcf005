"""Which row of the KV cache serves a prompt."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch

from eto_agents.models.local.prefix_cache import Ids, PrefixCache, n_common, row_groups

pytestmark = pytest.mark.torch

TOKEN_BYTES = 2 * 3 * 2 * 8 * 4  # keys and values, layers, key heads, channels, float32


def cache_of(n_rows: int, n_tokens: int = 256) -> PrefixCache:
    """A cache with room for this many rows, all of which it has."""
    config: Any = SimpleNamespace(
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_hidden_layers=3
    )
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: config), dtype=torch.float32
    )
    cache = PrefixCache(model, n_rows * n_tokens * TOKEN_BYTES)
    cache.reserve(n_rows, n_tokens)
    return cache


def write(cache: PrefixCache, row: int, ids: Ids) -> None:
    """Pretend that a row was computed: its keys and values are the ids themselves."""
    cache.rows[row].ids = ids
    columns = torch.arange(len(ids))[None]
    cache.cache.set_batch(torch.tensor([row]), columns, len(ids))
    states = torch.from_numpy(ids.astype(np.float32))[None, None, :, None].expand(1, 2, -1, 8)
    for layer in range(3):
        cache.cache.update(states, states, layer)


def assert_consistent(cache: PrefixCache) -> None:
    """Every row's keys and values are those of its ids."""
    for layer in range(3):
        for buffer in cache.cache.layer(layer):
            for i, row in enumerate(cache.rows):
                held = buffer[i, :, : row.n_tokens]
                expected = torch.from_numpy(row.ids.astype(np.float32))[None, :, None]
                assert torch.equal(held, expected.expand_as(held))


def ids(start: int, n: int) -> Ids:
    return np.arange(start, start + n, dtype=np.int32)


def test_as_many_rows_as_memory_allows() -> None:
    cache = cache_of(6)
    assert cache.max_rows(1) == cache.max_rows(256) == 6
    assert cache.max_rows(257) == 3
    assert cache.max_rows(10**6) == 1
    write(cache, 2, ids(0, 40))
    cache.reserve(6, 200)
    assert cache.rows[2].n_tokens == 40
    cache.reserve(3, 300)  # longer rows, so fewer: the contents are lost
    assert (len(cache.rows), cache.cache.n_tokens) == (3, 512)
    assert [row.n_tokens for row in cache.rows] == [0, 0, 0]


def test_a_prompt_takes_over_the_longest_row_it_continues() -> None:
    cache = cache_of(4)
    write(cache, 1, ids(0, 20))
    write(cache, 3, ids(0, 30))
    rows, unmatched = cache.assign([ids(0, 50)])
    assert (rows, unmatched) == ({0: 3}, [])
    assert cache.rows[3].n_tokens == 30
    assert_consistent(cache)


def test_a_row_is_cut_where_a_prompt_departs_from_it() -> None:
    cache = cache_of(2)
    write(cache, 0, ids(0, 40))
    rows, unmatched = cache.assign([np.concatenate([ids(0, 25), ids(900, 20)])])
    assert (rows, unmatched) == ({0: 0}, [])
    assert cache.rows[0].n_tokens == 25
    assert_consistent(cache)


def test_a_shared_prefix_is_copied_to_the_least_recently_used_row() -> None:
    cache = cache_of(3)
    for row in range(3):
        write(cache, row, ids(1000 * row, 100))
    cache.assign([ids(0, 110)])
    cache.assign([ids(2000, 110)])
    prompt = np.concatenate([ids(0, 30), ids(900, 20)])  # less than half of row 0
    rows, unmatched = cache.assign([prompt])
    assert (rows, unmatched) == ({0: 1}, [0])
    assert cache.rows[1].ids.tolist() == list(range(30))
    assert cache.rows[0].n_tokens == 100
    assert_consistent(cache)
    rows, _ = cache.assign([np.concatenate([ids(0, 10), ids(800, 20)])])  # too short to copy
    assert [cache.rows[row].n_tokens for row in rows.values()] == [0]


def test_moved_rows_keep_their_contents() -> None:
    rng = np.random.default_rng(0)
    cache = cache_of(12)
    for row in range(12):
        write(cache, row, ids(1000 * row, int(rng.integers(20, 200))))
    prompts = [np.append(cache.rows[row].ids, np.int32(7)) for row in (11, 4, 0, 8, 9)]
    rows, unmatched = cache.assign(prompts)
    assert (rows, unmatched) == ({0: 11, 1: 4, 2: 0, 3: 8, 4: 9}, [])
    order = cache.compact(rows)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert_consistent(cache)
    for row, index in enumerate(order):
        assert cache.rows[row].ids.tolist() == prompts[index][:-1].tolist()


@pytest.mark.parametrize(("n_new", "is_sorted"), [(1, False), (10**6, True)])
def test_rows_are_sorted_where_that_saves_enough(n_new: int, is_sorted: bool) -> None:
    cache = cache_of(32)
    lengths = [20 + 100 * (row % 2) for row in range(32)]
    for row, n in enumerate(lengths):
        write(cache, row, ids(1000 * row, n))
    order = cache.sort_by_length(list(range(32)), lengths, n_new)
    held = [row.n_tokens for row in cache.rows]
    assert held == [lengths[index] for index in order]
    assert held == (sorted(lengths, reverse=True) if is_sorted else lengths)
    assert_consistent(cache)


def test_groups_hold_neighbours() -> None:
    assert row_groups([5]) == [(0, 1, 5)]
    assert row_groups([1, 2, 3, 4, 5, 6, 7, 8, 9]) == [(0, 8, 8), (8, 9, 9)]
    assert [group[:2] for group in row_groups([1] * 40)] == [(0, 10), (10, 20), (20, 30), (30, 40)]


def test_common_prefixes() -> None:
    assert n_common(ids(0, 5), ids(0, 9)) == 5
    assert n_common(ids(0, 5), np.array([0, 1, 7, 3], np.int32)) == 2
    assert n_common(ids(0, 5), ids(1, 5)) == 0
    assert n_common(ids(0, 0), ids(0, 5)) == 0
