"""The table of environment ids. Strings only: registering imports no environment."""

from __future__ import annotations

import gymnasium as gym

_ENVIRONMENTS = {
    "ETO-ALFWorld-v0": (
        "eto_envs.alfworld.env:ALFWorldEnv",
        "eto_envs.alfworld.env:make_vector_env",
    ),
    "ETO-ScienceWorld-v0": (
        "eto_envs.scienceworld.env:ScienceWorldEnv",
        "eto_envs.scienceworld.env:make_vector_env",
    ),
    "ETO-WebShopBrowser-v0": (
        "eto_envs.webshop.browser:WebShopBrowserEnv",
        "eto_envs.webshop.browser:make_vector_env",
    ),
    "ETO-WebShop-v0": ("eto_envs.webshop.env:WebShopEnv", "eto_envs.webshop.env:make_vector_env"),
}

IDS = tuple(_ENVIRONMENTS)
"""The ids that `import eto_envs` registers."""


def register_all() -> None:
    """Register every id that is not registered yet."""
    for env_id, (entry_point, vector_entry_point) in _ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)
