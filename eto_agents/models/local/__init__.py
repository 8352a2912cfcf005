"""The inference engine: language models of `transformers` in this process, in batches.

`LocalModel` is the only way in; everything else here is internal. Importing this package imports
torch, so do it where a model is needed and not at the top of a module that others import.
"""

from __future__ import annotations

from eto_envs.errors import require

require("transformers", extra="train")  # before torch is imported: the error names the extra

from eto_agents.models.local.model import LocalModel  # noqa: E402
from eto_agents.models.local.support import UnsupportedModelError  # noqa: E402

__all__ = ["LocalModel", "UnsupportedModelError"]
