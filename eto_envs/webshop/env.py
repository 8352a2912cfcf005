"""`WebShopEnv`: WebShop behind the contract of `eto_envs.core`.

The rules are in `engine`, the datasets in `data`. This module adds tasks, splits, limits and info.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from eto_envs.core import Advance, TextEnv
from eto_envs.errors import UnknownNameError
from eto_envs.tasks import SPLITS, Task, TaskSet, TaskSets, find_task_set
from eto_envs.vector import TextVectorEnv
from eto_envs.webshop.data.datasets import find_bundle
from eto_envs.webshop.data.shop import Shop, open_shop
from eto_envs.webshop.engine.engine import KEYWORDS, Session, WebShopEngine
from eto_envs.webshop.engine.pages import with_history
from eto_envs.webshop.expert import remaining_plan

MAX_STEPS = 10
"""ETO's step limit (`eval_agent/configs/task/webshop.json`)."""

ObservationMode = Literal["text", "text_rich", "html"]


class _State(NamedTuple):
    """The state of an episode: the session, the terms of the reward, and the history."""

    session: Session
    reward_info: Mapping[str, Any] | None = None
    observations: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


class WebShopEnv(TextEnv):
    """WebShop: buy the product that an instruction describes.

    ## Description
    A shop with a search engine, result pages, product pages with options, and a "Buy Now" button.
    An instruction asks for a kind of product with attributes, options and a price cap. Pages,
    ranking, prices and rewards are those of the original (Yao et al., "WebShop: Towards Scalable
    Real-World Web Interaction with Grounded Language Agents", 2022), but everything runs in
    process, without a server, a JVM or a browser.

    ## Action Space
    `TextSpace`. ``search[words]`` searches; ``click[label]`` clicks a button, a product id or an
    option value on the page. The text in the brackets is not case-sensitive. Anything else changes
    nothing but counts as a step.

    ## Observation Space
    `TextSpace`: the page. With ``observation_mode="text"``, its texts are joined by `` [SEP] ``;
    ``"text_rich"`` marks buttons; ``"html"`` is the source of the page (requires the extra
    `browser`).

    ## Starting State
    The search page with the instruction.

    ## Reward
    At the purchase, in [0, 1]: the fraction of the requested attributes and options that the
    product has, together with whether its price is within the cap, times a factor for the type of
    product (section 3 of the paper). 0 if nothing is bought.

    ## Episode End
    Terminates at ``click[buy now]``; truncates after 10 steps (ETO's limit) or after `max_steps`.

    ## Info
    The common keys. `reveal` can add ``"admissible_actions"`` (``search[<keywords>]`` if the page
    has a search bar, then everything that can be clicked; ``<keywords>`` stands for any words, and
    is not valid itself), ``"expert_action"``, ``"expert_plan"`` (all remaining actions of the
    expert) and ``"hidden_state"`` (the current page, the target product and, after the purchase,
    the terms of the reward).

    ## Arguments
    - `split`: ``"train"``, ``"train_clean"``, ``"seen"``, ``"unseen"`` or ``"all"``. The official
      data have no unseen split.
    - `dataset`: ``"auto"``, ``"mini"``, ``"small"``, ``"full"``, or a folder with the official
      files.
    - `goals`: ``"human"`` instructions or ``"synthetic"`` ones.
    - `observation_mode`: see above.
    - `price_seed`: a different seed for prices and price caps than the dataset's; they are drawn in
      the original's call order.
    - `show_attrs`: adds a page of attributes to every product.
    - `num_prev_obs`, `num_prev_actions`: the number of previous observations and actions to prepend
      to each observation.
    - `strict_reference`: raises `ReferenceCrash` for actions at which the original crashes, instead
      of ignoring them.
    - `max_steps`, `reveal`, `shaping`, `render_mode`: as in every environment here.

    ## References
    princeton-nlp/WebShop at commit 64fa2a5; ETO's copy, Yifan-Song793/ETO at commit a2fc5da.
    Departures are listed in docs/reproduction.md.

    ## Version History
    - v0: first version.
    """

    world = "webshop"
    revealable = (*TextEnv.revealable, "expert_plan")

    def __init__(  # noqa: PLR0913 (gym.make's keyword arguments)
        self,
        split: str = "train",
        *,
        dataset: str = "auto",
        goals: Literal["human", "synthetic"] = "human",
        observation_mode: ObservationMode = "text",
        price_seed: int | None = None,
        show_attrs: bool = False,
        num_prev_obs: int = 0,
        num_prev_actions: int = 0,
        strict_reference: bool = False,
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Open the dataset (once per process) and select the task set; see the class.

        Raises:
            UnknownNameError: an unknown split, dataset or mode; the message lists the valid ones.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
            MissingExtraError: ``observation_mode="html"`` without jinja2.
        """
        self._shop = open_shop(find_bundle(dataset), goals=goals, price_seed=price_seed)
        super().__init__(
            task_sets(self._shop),
            split,
            max_steps=max_steps,
            reveal=reveal,
            shaping=shaping,
            render_mode=render_mode,
        )
        self._engine = WebShopEngine(
            self._shop, show_attrs=show_attrs, strict_reference=strict_reference
        )
        writers = {
            "text": self._engine.text,
            "text_rich": self._engine.text_rich,
            "html": self._engine.html,
        }
        if observation_mode not in writers:
            raise UnknownNameError("observation mode", observation_mode, writers)
        self._write = writers[observation_mode]
        if observation_mode == "html":
            self._write(self._engine.start(0))  # fails early if jinja2 is missing
        self._n_prev = {"n_observations": num_prev_obs, "n_actions": num_prev_actions}
        self._keeps_history = num_prev_obs > 0 or num_prev_actions > 0
        self._state = _State(Session(0))

    @classmethod
    def find_task_sets(
        cls,
        *,
        dataset: str = "auto",
        goals: Literal["human", "synthetic"] = "human",
        price_seed: int | None = None,
        **env_args: Any,
    ) -> TaskSets:
        """The task sets of a dataset; see `TextEnv.find_task_sets`."""
        return task_sets(open_shop(find_bundle(dataset), goals=goals, price_seed=price_seed))

    def _start(self, task: Task) -> str:
        self._state = _State(self._engine.start(int(task.id)))
        return self._observe(None)

    def _advance(self, action: str) -> Advance:
        outcome = self._engine.step(self._state.session, action)
        self._state = self._state._replace(session=outcome.session, reward_info=outcome.reward_info)
        score = float(outcome.reward) if outcome.done else 0.0
        return Advance(self._observe(action), score, outcome.done, outcome.is_valid)

    def _observe(self, action: str | None) -> str:
        text = self._write(self._state.session)
        if not self._keeps_history:
            return text
        _, _, observations, actions = self._state
        if action is not None:
            actions = (*actions, action)
        self._state = self._state._replace(observations=(*observations, text), actions=actions)
        return with_history(text, observations, actions, **self._n_prev)

    def _reveal(self, name: str) -> Any:
        session = self._state.session
        if name == "admissible_actions":
            search = [f"search[{KEYWORDS}]"] if self._engine.has_search_bar(session) else []
            return search + [f"click[{label}]" for label in self._engine.clickables(session)]
        if name in ("expert_action", "expert_plan"):
            actions = remaining_plan(self._engine, session)
            return actions if name == "expert_plan" else actions[0]
        goal = self._shop.goals[session.goal_index]
        return {
            "url": self._engine.url(session),
            "page": session.kind,
            "asin": session.asin,
            "options": dict(session.options),
            "target_asin": goal.asin,
            "target_attributes": list(goal.attributes),
            "target_options": _plain(goal.options),
            "price_upper_usd": goal.price_upper_usd,
            "reward_info": None if self._state.reward_info is None else {**self._state.reward_info},
        }

    def _world_state(self) -> _State:
        return self._state

    def _set_world_state(self, task: Task, state: Any) -> None:
        self._state = state


def make_vector_env(**kwargs: Any) -> TextVectorEnv:
    """The vector entry point: `TextVectorEnv` of `WebShopEnv`."""
    return TextVectorEnv(WebShopEnv, **kwargs)


def _plain(options: Sequence[str] | Mapping[str, str]) -> list[str] | dict[str, str]:
    return dict(options) if isinstance(options, Mapping) else list(options)


def task_set(shop: Shop, split: str) -> TaskSet:
    """The tasks of a split.

    Raises:
        UnknownNameError: the shop's dataset has no such split.
    """
    return find_task_set(task_sets(shop), split)


@functools.lru_cache(maxsize=16)
def task_sets(shop: Shop) -> TaskSets:
    """The task sets of a shop, shared by all environments of a process: each is hashed once."""
    indices = {**shop.splits, "all": range(len(shop.goals))}

    def make_task(task_id: str) -> Task:
        goal = shop.goals[int(task_id)]
        return Task(
            id=task_id,
            goal=goal.instruction,
            max_steps=MAX_STEPS,
            kind=shop.product(goal.asin).category,
            data={
                "asin": goal.asin,
                "attributes": list(goal.attributes),
                "options": _plain(goal.options),
                "price_upper_usd": goal.price_upper_usd,
            },
        )

    def make(split: str) -> TaskSet:
        return TaskSet(
            [str(index) for index in indices[split]],
            make_task,
            split=split,
            dataset=shop.dataset,
            fingerprint=shop.fingerprint,
            source=shop.source(split),
        )

    return TaskSets([split for split in SPLITS if split in indices], make)
