"""`eto push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def push(  # noqa: PLR0913 (the flags of the command)
    path: Positional[Annotated[Path, arg(metavar="PATH")]],
    repo: Positional[Annotated[str, arg(metavar="OWNER/NAME")]],
    results: Annotated[tuple[Path, ...], arg(metavar="RUN …")] = (),
    base_model: str | None = None,
    license: str | None = None,
    private: bool = False,
    partial: bool = False,
    message: str | None = None,
    dry_run: bool = False,
) -> None:
    r"""Push a run's episodes or a checkpoint to the Hugging Face hub, with a card.

    An evaluation or a collection becomes a dataset, a training or a checkpoint a model.

    Log in with `hf auth login` first. Paths of this machine are not sent.

    For example:
        eto push runs/sft me/webshop-sft --results runs/sft-eval --license apache-2.0
        eto push runs/sft-eval me/webshop-sft-episodes --private

    Args:
        path: Folder of a run or of a checkpoint.
        repo: Name of the repository, which is created if it does not exist.
        results: Evaluations of the checkpoint for its card: folders written by `eto eval`, or their
            results.json.
        base_model: Name on the hub of the model that was fine-tuned. By default as recorded.
        license: Identifier of a licence on the hub, such as apache-2.0.
        private: Make a new repository private.
        partial: Push a run although it is not finished.
        message: Message of the commit; by default "Upload with eto-gym".
        dry_run: Send nothing; print the card and the files that would be sent.
    """
    from eto_agents.console import show, table
    from eto_agents.hub import push as hub

    upload = hub.prepare(
        path, repo, results=results, base_model=base_model, licence=license, partial=partial
    )
    if dry_run:
        sizes = [(name, f"{size:,}") for name, size in upload.sizes().items()]
        title = f"{upload.kind} {repo}, not sent"
        show(upload.card, table(("file", "bytes"), sizes, title=title, right=("bytes",)))
        return
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    show(f"pushed to {hub.push(upload, private=private, message=message)}")
