"""Replays: what is the same is found to be, and what is not."""

from __future__ import annotations

import uuid
from typing import Any

import gymnasium as gym
import pytest

from eto_envs.audit import Agreement, audit
from eto_envs.core import Advance
from eto_envs.errors import BackendError
from tests.toy import CORRIDOR, CorridorEnv

MINI: dict[str, Any] = {"dataset": "mini"}


@pytest.mark.parametrize("env_id", ["ETO-WebShop-v0", "ETO-ALFWorld-v0"])
def test_ours_are_deterministic(env_id: str) -> None:
    seen = []
    found = audit(env_id, 1, env_args=MINI, progress=lambda n, of: seen.append((n, of)))
    assert found.ok
    assert found.is_claimed
    assert found.dataset.startswith("mini")
    n_kinds = len(found.by_kind)
    assert n_kinds > 3
    assert seen == [(i, 4 * n_kinds) for i in range(1, 4 * n_kinds + 1)]
    assert all(a.n_walks == 2 for a in found.by_kind.values())
    assert found.total.n_moments == sum(a.n_moments for a in found.by_kind.values())


@pytest.mark.java
@pytest.mark.slow
def test_scienceworld_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    args = {"dataset": "1.2.3", "split": "seen", "max_steps": 6}
    found = audit("ETO-ScienceWorld-v0", 1, env_args=args)
    assert {kind: each for kind, each in found.by_kind.items() if not each.ok} == {}
    assert len(found.by_kind) == 30


class Restless(CorridorEnv):
    """Says something else each time, and in another process everything."""

    def _advance(self, action: str) -> Advance:
        outcome = super()._advance(action)
        return outcome._replace(observation=f"{outcome.observation} {uuid.uuid4()}")


class ByHash(CorridorEnv):
    """Depends on the hash seed of its process."""

    def _advance(self, action: str) -> Advance:
        outcome = super()._advance(action)
        return outcome._replace(observation=f"{outcome.observation} {hash('a')}")


@pytest.mark.parametrize(("kind", "share"), [(Restless, 0.0), (ByHash, 0.5)])
def test_what_is_not_the_same_is_found(kind: type, share: float) -> None:
    env_id = f"eto-test/{kind.__name__}-v0"
    gym.register(env_id, entry_point=f"tests.envs.test_audit:{kind.__name__}")
    try:
        found = _audit_here(env_id)
        total = found.total
        assert not found.ok
        n_steps = total.n_moments - 2 * total.n_walks
        assert total.n_same["observation"] - 2 * total.n_walks == n_steps * share
        assert total.n_same["score"] == total.n_same["info"] == total.n_moments
    finally:
        del gym.registry[env_id]


def _audit_here(env_id: str) -> Any:
    """The other process must know the id, too."""
    from eto_envs import audit as module

    code = (
        "import sys; sys.path[:] = {!r}; import gymnasium as gym; import eto_envs.audit as a; "
        f"gym.register({env_id!r}, entry_point='tests.envs.test_audit:{env_id[9:-3]}'); a.main()"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CODE", code)
        return audit(env_id, 2)


def test_another_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eto_envs.audit._CODE", "raise SystemExit('no such luck') # {}")
    with pytest.raises(BackendError, match="no such luck"):
        audit(CORRIDOR, 1)


def test_nothing_replayed_is_not_ok() -> None:
    assert not Agreement().ok
    with pytest.raises(ValueError, match="at least 1"):
        audit(CORRIDOR, 0)


def test_one_moment_that_differs_counts() -> None:
    agreement = Agreement()
    moment = ["a", "b", "c"]
    agreement.add([moment, moment], [moment, moment], [moment, ["a", "b", "x"]])
    assert agreement.n_same == {"observation": 4, "score": 4, "info": 3}
    assert not agreement.ok
