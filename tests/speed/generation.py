"""How fast `hf:` models play: `python tests/speed/generation.py [--size small] [--tokens 32]`.

Both sides play the same episodes of the mini worlds with the same untrained tiny model. The expert
acts, so that the prompts contain real pages, and the model writes a fixed number of tokens a turn.
One side is `LocalModel` with 32 episodes in a batch, the other `transformers`' own `generate` with
one episode at a time, which computes each turn's whole prompt. The sides alternate, so that both
run under the same load; compare the ratios. The prompts are "own" with its worked example, for
pretrained models, and "brief", which tiny models are trained with.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from eto_agents.models.base import Completion, Sampling
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.local import LocalModel
from eto_agents.models.tiny import make_tiny
from eto_agents.policies.simple import ExpertPolicy
from eto_agents.policy import Decision
from eto_agents.react.chat import encode
from eto_agents.react.parse import Parsed
from eto_agents.react.prompts import load_prompts, prompt_key
from eto_agents.rollout import Rollouts, jobs_of, make_batch

WORLDS = {
    "WebShop mini": ("ETO-WebShop-v0", {"dataset": "mini", "split": "seen"}),
    "ALFWorld mini": ("ETO-ALFWorld-v0", {"dataset": "mini", "split": "train"}),
}

Generate = Callable[[list[list[Any]], Sampling], list[Completion]]


class TimedPolicy:
    """The expert's actions; a model writes a reply each turn, only for the time it takes."""

    reveal = ExpertPolicy.reveal

    def __init__(self, generate: Generate, sampling: Sampling, prompts: str) -> None:
        self._generate, self._sampling = generate, sampling
        self._with_example = prompts == "own"
        self._expert = ExpertPolicy()
        self._prompts = load_prompts(prompts)
        self._chats: dict[int, list[Any]] = {}
        self.n_tokens = 0

    def reset(self, slots: Sequence[int], tasks: Any, seeds: Any) -> None:
        for slot in slots:
            self._chats.pop(slot, None)
        self._expert.reset(slots, tasks, seeds)

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[Decision]:
        for slot, observation, info in zip(slots, observations, infos, strict=True):
            prompt = self._prompts[prompt_key(info)]
            if slot in self._chats:
                text = prompt.format.message(observation, Parsed("x", "", ""))
                self._chats[slot].append({"role": "user", "content": text})
            else:
                head = prompt.head(with_example=self._with_example)
                self._chats[slot] = [
                    *head,
                    prompt.task(observation, with_example=self._with_example),
                ]
        done = self._generate([self._chats[slot] for slot in slots], self._sampling)
        for slot, completion in zip(slots, done, strict=True):
            if completion.error:
                raise RuntimeError(completion.error)
            self._chats[slot].append({"role": "assistant", "content": completion.text})
            self.n_tokens += int(completion.usage["completion_tokens"])
        return [
            replace(decision, text=completion.text)
            for decision, completion in zip(
                self._expert.act(slots, observations, infos), done, strict=True
            )
        ]


def stock(checkpoint: Checkpoint, *, with_cache: bool = True) -> Generate:
    """`transformers`' own generation, which computes each turn's whole prompt.

    Args:
        checkpoint: the model.
        with_cache: use a KV cache within a turn.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer

    def one(chat: list[Any], sampling: Sampling) -> Completion:
        ids = torch.tensor([encode(chat, tokenizer, checkpoint.template, for_reply=True).ids])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=with_cache,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )[0, ids.shape[1] :]
        usage = {"completion_tokens": float(len(out))}
        return Completion(tokenizer.decode(out, skip_special_tokens=True), usage=usage)

    return lambda chats, sampling: [one(chat, sampling) for chat in chats]


def make_model(size: str) -> Checkpoint:
    """An untrained model whose tokenizer knows both worlds."""
    texts = []
    for env_id, arguments in WORLDS.values():
        env = make_batch(env_id, ExpertPolicy(), 1, arguments)
        tasks = list(itertools.islice(env.envs[0].tasks, 40))
        for episode in Rollouts(ExpertPolicy(), env, jobs_of(tasks, [0])):
            texts.append(episode.initial_observation)
            texts += [text for step in episode.steps for text in (step.action, step.observation)]
        env.close()
    heads = [prompt.head(with_example=True) for prompt in load_prompts("own").values()]
    texts += [message["content"] for head in heads for message in head]
    return make_tiny(texts, size=size)


def play(
    generate: Generate,
    world: str,
    prompts: str,
    first: int,
    n_episodes: int,
    n_envs: int,
    sampling: Sampling,
) -> tuple[float, float, float, float]:
    """Episodes, turns and tokens per second, and turns per second of processor time."""
    env_id, arguments = WORLDS[world]
    policy = TimedPolicy(generate, sampling, prompts)
    env = make_batch(env_id, policy, n_envs, arguments)
    tasks = list(itertools.islice(env.envs[0].tasks, first, first + n_episodes))
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    episodes = list(Rollouts(policy, env, jobs_of(tasks, [0])))
    taken_s, taken_cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    env.close()
    failed = [episode.error for episode in episodes if episode.error]
    if failed:
        raise RuntimeError(failed[0])
    n_turns = sum(len(episode.steps) for episode in episodes)
    return (
        len(episodes) / taken_s,
        n_turns / taken_s,
        policy.n_tokens / taken_s,
        n_turns / taken_cpu_s,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="small")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", nargs="+", default=["own", "brief"])
    arguments = parser.parse_args()
    checkpoint = make_model(arguments.size)
    checkpoint.model.to(getattr(torch, arguments.dtype)).to(device=arguments.device)
    n_parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(
        f"{arguments.size}: {n_parameters / 1e6:.1f} M parameters, {arguments.tokens} tokens a turn"
    )
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")
    batch = arguments.batch
    sampling = Sampling(max_tokens=arguments.tokens, stop=())
    for prompts, world in itertools.product(arguments.prompts, WORLDS):
        fast, slow, slowest = [], [], []
        for repetition in range(arguments.repetitions):
            batched = checkpoint.chat_model(batch)
            first = repetition % 2
            played = play(batched.generate, world, prompts, first, 2 * batch, batch, sampling)
            fast.append(played)
            slow.append(play(stock(checkpoint), world, prompts, first, 3, 1, sampling))
            none = stock(checkpoint, with_cache=False)
            slowest.append(play(none, world, prompts, first, 1, 1, sampling))
        report(f"{world}, prompts {prompts}", batched, fast, slow, slowest)


def report(what: str, batched: LocalModel, fast: Any, slow: Any, slowest: Any) -> None:
    n = {name: value / batched.totals["requests"] for name, value in batched.totals.items()}
    print(
        f"{what}: {n['prompt_tokens']:.0f} prompt tokens a turn, "
        f"{n['prompt_tokens'] - n['cached_tokens']:.0f} of them not cached"
    )
    sides = {"batched": fast, "generate, one at a time": slow, "generate without cache": slowest}
    for name, rows in sides.items():
        episodes, turns, tokens, cpu = map(statistics.median, zip(*rows, strict=True))
        print(
            f"  {name:24}{episodes:7.2f} episodes/s{turns:8.1f} turns/s{tokens:8,.0f} tokens/s"
            f"{cpu:8.1f} turns/s of processor time"
        )
    for name, rows in (("generate", slow), ("generate without cache", slowest)):
        ratios = [
            f"{statistics.median(a[i] / b[i] for a, b in zip(fast, rows, strict=True)):.1f}"
            for i in (1, 3)
        ]
        print(f"  batched is {ratios[0]} times {name}, by processor time {ratios[1]} times")


if __name__ == "__main__":
    main()
