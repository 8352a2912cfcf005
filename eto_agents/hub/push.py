"""Pushing runs and checkpoints to the Hugging Face hub.

A run's episodes become a dataset, a checkpoint a model. `prepare` decides what is sent and makes it
presentable: a card, no paths of this machine, no states of an optimiser or other leftovers, and
nothing at all if a file has a credential. `push` sends it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from eto_agents.episode_log import read_log
from eto_agents.evaluation.results import Results, SplitResult
from eto_agents.evaluation.runs import Run, SplitRun, read_run
from eto_agents.hub.cards import Model, dataset_card, model_card
from eto_agents.hub.privacy import credential_in, without_path, without_paths, without_paths_of
from eto_agents.plain_text import one_line
from eto_agents.runs import EPISODES, RunRecord, read_record
from eto_agents.strict_json import json_text
from eto_envs.errors import (
    CorruptDataError,
    DataError,
    DataNotFoundError,
    EtoError,
    UnknownNameError,
    require,
)
from eto_envs.files import read_json_object, sha256_of

_WEIGHTS: Final = "*.safetensors"
_ADAPTER: Final = "adapter_config.json"
_CHECKPOINT: Final = (
    *(_WEIGHTS, "*.safetensors.index.json", "config.json", "generation_config.json", _ADAPTER),
    *("eto.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.model", "chat_template*"),
)
"""Files of a checkpoint. Everything else stays here: optimisers' states, pickles, logs."""

_WITH_PATHS: Final = ("config.json", "tokenizer_config.json", "eto.json", _ADAPTER)
"""Files that may name other files. A vocabulary has tokens that look like paths."""


class HubError(EtoError):
    """The hub refused something, or cannot be reached."""


@dataclass(frozen=True)
class Upload:
    """What is sent.

    Attributes:
        repo: the repository's name on the hub, with its owner's.
        kind: the type of the repository.
        card: the text of its card.
        contents: content, or the file that has it, by path in the repository.
    """

    repo: str
    kind: Literal["dataset", "model"]
    card: str
    contents: Mapping[str, bytes | Path]

    @property
    def files(self) -> dict[str, bytes | Path]:
        """The contents, and the card."""
        return {"README.md": self.card.encode(), **self.contents}

    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def prepare(
    path: Path,
    repo: str,
    *,
    results: Sequence[Path] = (),
    base_model: str | None = None,
    licence: str | None = None,
    partial: bool = False,
) -> Upload:
    """Decide what is sent; nothing is sent yet.

    Args:
        path: the folder of an evaluation or a collection, of a training, or of a checkpoint.
        repo: the repository's name on the hub, such as ``"me/webshop-sft"``.
        results: evaluations of a checkpoint, as files or as folders of runs, for its card.
        base_model: the hub's name of the model from which a checkpoint was trained; by default as
            it is recorded.
        licence: the identifier of a licence on the hub, such as ``"apache-2.0"``.
        partial: whether an unfinished run may be pushed.

    Raises:
        UnknownNameError: `repo` cannot be the name of a repository.
        DataNotFoundError: there is no such folder, or it is neither a run nor a checkpoint.
        DataError: the run is not finished; the results are those of another model; a LoRA adapter
            does not name a model on the hub; or a file contains a credential.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    _check_name(repo)
    if not path.is_dir():
        raise DataNotFoundError(f"there is no folder {path}")
    record = read_record(path)
    if record is not None and record.kind == EPISODES:
        if results or base_model:
            raise DataError(f"{path} is a run of episodes: results and base_model are for models")
        upload = _dataset(path, repo, record, licence, partial=partial)
    else:
        upload = _model(path, repo, record, results, base_model, licence, partial=partial)
    for name, content in upload.files.items():
        if not Path(name).match(_WEIGHTS):
            found = credential_in(content if isinstance(content, bytes) else content.read_bytes())
            if found is not None:
                raise DataError(f"{name} of {path} contains {found}: nothing has been sent")
    return upload


def push(upload: Upload, *, private: bool = False, message: str | None = None) -> str:
    """Create the repository unless it exists, and commit the files that are new or have changed.

    Args:
        upload: what `prepare` returned.
        private: whether a new repository is private; one that is public is refused.
        message: the message of the commit; by default "Upload with eto-gym".

    Returns:
        The repository's address.

    Raises:
        HubError: there is no token, the hub refuses the upload, or it cannot be reached.
    """
    hub = require("huggingface_hub", extra="hub")
    from huggingface_hub.errors import HfHubHTTPError

    if hub.get_token() is None:
        raise HubError("you are not logged in to the hub: run `hf auth login`, or set HF_TOKEN")
    api = hub.HfApi(library_name="eto-gym")
    additions = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in upload.files.items()
    ]
    about = {"repo_id": upload.repo, "repo_type": upload.kind}
    try:
        url = api.create_repo(**about, private=private or None, exist_ok=True)
        if private and not api.repo_info(**about).private:
            raise HubError(
                f"{upload.repo} exists and is public: make it private on the hub, or choose another"
            )
        api.create_commit(
            **about, operations=additions, commit_message=message or "Upload with eto-gym"
        )
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, upload.repo)) from error
    # The bases are the errors of the HTTP library, whichever the hub's client uses, and of the
    # system; a failed upload of a large file is a RuntimeError, an odd answer one of the others.
    except (*HfHubHTTPError.__bases__, RuntimeError, ValueError, KeyError) as error:
        cause = error.__cause__ or error
        raise HubError(
            f"cannot push to {api.endpoint}: {one_line(f'{type(cause).__name__}: {cause}')}"
        ) from error
    return str(url)


def _check_name(repo: str) -> None:
    require("huggingface_hub", extra="hub")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        is_valid = repo.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UnknownNameError("repository", repo, (), "Write OWNER/NAME.")


def _refusal(error: Any, repo: str) -> str:
    status = error.response.status_code
    said = one_line(str(error.server_message or error.response.reason_phrase))
    hints = {
        401: "; log in with `hf auth login`",
        403: f"; your token may not write to {repo}",
        404: f"; your token may not write to {repo}",
    }
    return f"the hub refuses to take {repo}: {said} ({status}){hints.get(status, '')}"


def _dataset(
    path: Path, repo: str, record: RunRecord, licence: str | None, *, partial: bool
) -> Upload:
    run = read_run(path)
    is_complete = run.is_finished and all(split.is_complete for split in run.splits)
    if not (is_complete or partial):
        n_ended = sum(split.n_ended for split in run.splits)
        raise DataError(
            f"{path} is not finished, with {n_ended} episodes so far: rerun its command, or push "
            "it as it is with --partial"
        )
    log = read_log(path, keep_messages=lambda _: True)
    episodes = [without_paths_of(e) for e in log.episodes if e.status != "cancelled"]
    results = Results.load(path) if is_complete else _results_so_far(run, record)
    card = dataset_card(
        repo,
        _without_paths_of(results),
        n_episodes=len(episodes),
        licence=licence,
        is_complete=is_complete,
    )
    contents: dict[str, bytes | Path] = {
        "episodes.jsonl": "".join(f"{e.to_json()}\n" for e in episodes).encode(),
        "run.json": _json_without_paths(path / "run.json"),
    }
    if is_complete:  # else the results are those of an earlier call, with fewer episodes
        contents["results.json"] = _json_without_paths(path / "results.json")
    return Upload(repo, "dataset", card, contents)


def _results_so_far(run: Run, record: RunRecord) -> Results:
    return Results(
        env_id=record.settings["env_id"],
        dataset=run.splits[0].dataset,
        policy=run.policy,
        splits={split.split: _summary_so_far(split) for split in run.splits},
    )


def _summary_so_far(split: SplitRun) -> SplitResult:
    n_planned = split.n_planned or len(split.samples)
    return dataclasses.replace(split.summary, n_planned=n_planned // split.n_samples)


def _without_paths_of(results: Results) -> Results:
    return dataclasses.replace(
        results, policy=without_path(results.policy), dataset=without_path(results.dataset)
    )


def _model(
    path: Path,
    repo: str,
    record: RunRecord | None,
    results: Sequence[Path],
    base_model: str | None,
    licence: str | None,
    *,
    partial: bool,
) -> Upload:
    folder, run = _checkpoint_of(path, record)
    if run is not None and not ((run / "result.json").is_file() or partial):
        raise DataError(
            f"{run} is not finished: rerun its command, or push it as it is with --partial"
        )
    record = None if run is None else read_record(run)
    files = {f.name: f for pattern in _CHECKPOINT for f in sorted(folder.glob(pattern))}
    weights = {name: file for name, file in files.items() if file.match(_WEIGHTS)}
    if not weights:
        raise DataError(f"{folder} is not a checkpoint that can be pushed: it has no {_WEIGHTS}")
    base = base_model or _base_of(folder, record)
    contents: dict[str, bytes | Path] = {}
    for name, file in sorted(files.items()):
        changes = {"base_model_name_or_path": base} if name == _ADAPTER else {}
        contents[name] = _json_without_paths(file, changes) if name in _WITH_PATHS else file
    own = read_json_object(folder / "eto.json") if "eto.json" in files else {}
    model = Model(
        method="" if record is None else record.kind,
        settings={} if record is None else without_paths(record.settings),
        base=base,
        is_adapter=_ADAPTER in files,
        prompts=without_path(str(own.get("prompts", "own"))),
        results=[_without_paths_of(result) for result in _results_of(results, weights)],
    )
    card = model_card(repo, model, licence=licence)
    return Upload(repo, "model", card, contents)


def _checkpoint_of(path: Path, record: RunRecord | None) -> tuple[Path, Path | None]:
    """The folder of a checkpoint, and that of the training that made it, if there is one."""
    if record is not None:
        if not (path / "checkpoint").is_dir():
            raise DataNotFoundError(
                f"{path}, a run of kind {record.kind!r}, has no checkpoint to push"
            )
        return path / "checkpoint", path
    if not any((path / name).is_file() for name in ("config.json", _ADAPTER)):
        raise DataNotFoundError(
            f"{path} is neither a run nor a checkpoint: name a folder that `eto eval`, "
            "`eto collect` or `eto train` wrote"
        )
    is_of_run = path.name == "checkpoint" and read_record(path.parent) is not None
    return path, path.parent if is_of_run else None


def _base_of(folder: Path, record: RunRecord | None) -> str | None:
    """The hub's name of the model that was trained; None if it has none.

    Raises:
        DataError: the model of a LoRA adapter, which is useless without it, is not on the hub.
    """
    is_adapter = (folder / _ADAPTER).is_file()
    if is_adapter:
        name = str(read_json_object(folder / _ADAPTER).get("base_model_name_or_path"))
    else:
        name = "" if record is None else record.inputs.get("model", "")
    is_on_hub = name.count("/") == 1 and not name.startswith((".", "~", "/"))
    if is_on_hub and not Path(name).exists():
        return name
    if is_adapter:
        raise DataError(
            f"{folder} is a LoRA adapter of {name}, which is not on the hub: push that first, and "
            "name it with --base-model"
        )
    return None


def _results_of(sources: Sequence[Path], weights: Mapping[str, Path]) -> Iterator[Results]:
    """Read evaluations, and check that they are of these weights."""
    hashes = {sha256_of(file) for file in weights.values()} if sources else set()
    for source in sources:
        results = Results.load(source)
        evaluated = _weights_evaluated(results, source)
        if evaluated is not None and not hashes <= evaluated:
            raise DataError(f"{source} has the results of {results.policy}, not of this checkpoint")
        yield results


def _weights_evaluated(results: Results, source: Path) -> set[str] | None:
    """SHA-256 of the weights that were evaluated; None of a server, which does not say."""
    try:
        policy = results.provenance.get("policy", {})
        if "model" not in policy:
            return set()
        hashes = policy.get("model_provenance", {}).get("weights_sha256")
        return None if hashes is None else {*hashes.values()}
    except (AttributeError, TypeError) as error:
        raise CorruptDataError(f"{source} does not say what was evaluated ({error})") from error


def _json_without_paths(file: Path, changes: Mapping[str, Any] | None = None) -> bytes:
    return (json_text(without_paths(read_json_object(file)) | (changes or {}), 2) + "\n").encode()
