"""What the head on a processor saves: `python tests/speed/training.py`.

Forward and backward over batches as DPO's in the two mini worlds, with TRL's head and with ours in
turns. Prints CPU seconds and the ratio; other programs share the cores.
"""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from eto_agents.training.cpu_head import restore_head, use_cpu_head

BATCHES = {  # sequences, tokens of each, share of the agent's, vocabulary
    "WebShop mini": (2, 1000, 0.06, 3900),
    "ALFWorld mini": (8, 340, 0.23, 1600),
}
N_PASSES = 8


def batch(n_rows: int, n_tokens: int, share: float, vocabulary: int) -> dict[str, Any]:
    """Random tokens; a tenth of the rows' ends is padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (n_rows, n_tokens), generator=generator)
    attention = torch.ones_like(ids)
    attention[::2, int(0.8 * n_tokens) :] = 0
    is_agent = (torch.rand(ids.shape, generator=generator) < share) & (attention == 1)
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "labels": ids.masked_fill(~is_agent, -100),
    }


def cpu_s(model: Any, given: dict[str, Any]) -> float:
    """CPU seconds of a forward and backward pass."""
    started_s = time.process_time()
    for _ in range(N_PASSES):
        model(**given, fused_lm_head=True, use_cache=False).loss.backward()
        model.zero_grad()
    return (time.process_time() - started_s) / N_PASSES


def main() -> None:
    """Print a line a world."""
    torch.set_num_threads(1)
    for world, (n_rows, n_tokens, share, vocabulary) in BATCHES.items():
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config).train()
        given = batch(n_rows, n_tokens, share, vocabulary)
        spent: dict[str, list[float]] = {"TRL's head": [], "ours": []}
        for _ in range(3):
            for name, times in spent.items():
                add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
                if name == "ours":
                    use_cpu_head(model)
                times.append(cpu_s(model, given))
                restore_head(model)
        theirs, ours = (min(times) for times in spent.values())
        print(f"{world}: TRL's head {theirs:.3f} s, ours {ours:.3f} s: {theirs / ours:.1f} times")


if __name__ == "__main__":
    main()
