"""The nouns of product names, which determine the term `r_type` of the reward.

The original tags names with spaCy at every purchase (`get_type_reward` in
`web_agent_site/engine/goal.py` of princeton-nlp/WebShop at commit 64fa2a5: the lower-case tokens
tagged NOUN or PROPN, in order, with repetitions). As only names from the catalogue are tagged, this
can be done once, when a bundle is built, and no model is required later. There are three sources: a
table in the dataset folder, spaCy, and a heuristic that does not require a model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from eto_envs.errors import CorruptDataError, DataNotFoundError, MissingExtraError, require
from eto_envs.files import read_json_object
from eto_envs.webshop.data.official import NOUNS_FILE, string_tuple

NounsFrom = Literal["auto", "file", "spacy", "heuristic"]

# ETO runs en_core_web_lg, the original first ran en_core_web_sm.
SPACY_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
HEURISTIC = "closed-class-1"  # the number is incremented with every change of the rules below
HEURISTIC_WARNING = (
    "the nouns of product names are determined by a heuristic, because no spaCy model is installed:"
    " about 2 % of comparisons of two product types differ from the original's, so scores are only"
    " comparable with those of the same bundle. Install 'eto-gym[spacy]' and a model such as"
    " en_core_web_lg and rebuild the bundle, or put a nouns.json into the dataset's folder"
)


class NounSource(Protocol):
    """Determines the nouns of names.

    Attributes:
        description: the method and its version, for the manifest of the bundle.
    """

    description: str

    def nouns(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The nouns of each name, in lower case, in order, with repetitions."""


def noun_source(kind: NounsFrom, folder: Path, spacy_model: str | None = None) -> NounSource:
    """The source of the nouns of a bundle.

    Args:
        kind: the kind of source; ``"auto"`` is the table in the folder, or else spaCy, or else the
            heuristic, which then warns once.
        folder: the folder of the dataset.
        spacy_model: the name or folder of a spaCy model; None for the first of `SPACY_MODELS` that
            is installed.

    Raises:
        DataNotFoundError: the requested table or model is missing.
        MissingExtraError: spaCy was requested and is not installed.
        ValueError: there is no such kind.
    """
    if kind not in ("auto", "file", "spacy", "heuristic"):
        raise ValueError(f"nouns must be 'auto', 'file', 'spacy' or 'heuristic', not {kind!r}")
    if kind == "file" or (kind == "auto" and not spacy_model and (folder / NOUNS_FILE).is_file()):
        return TableNouns(folder / NOUNS_FILE)
    if kind == "spacy" or spacy_model:
        return SpacyNouns(spacy_model)
    if kind == "auto":
        try:
            return SpacyNouns(None)
        except (MissingExtraError, DataNotFoundError):
            return HeuristicNouns(is_fallback=True)
    return HeuristicNouns()


class TableNouns:
    """Nouns from a JSON file that maps each product name to its list of nouns."""

    description = "file"

    def __init__(self, path: Path) -> None:
        """Read the table.

        Raises:
            DataNotFoundError: there is no such file.
            CorruptDataError: it is not a JSON object.
        """
        self._path = path
        hint = "It should map each product name to its list of nouns."
        self._table: Mapping[str, Any] = read_json_object(path, hint)

    def nouns(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The nouns of each name.

        Raises:
            CorruptDataError: a name is not in the table, or its entry is not a list of strings.
        """
        missing = [name for name in names if name not in self._table]
        if missing:
            raise CorruptDataError(
                f"{self._path} has no entry for the product name {missing[0]!r}; add its nouns, or"
                " remove the file to have the names tagged"
            )
        return [string_tuple(self._table[name], self._path, repr(name)) for name in names]


class SpacyNouns:
    """Nouns from a spaCy model's tagger, as in the original.

    The parser and the entity recogniser are disabled: they do not affect the tags.
    """

    def __init__(self, model: str | None) -> None:
        """Load a model.

        Raises:
            DataNotFoundError: the model is not installed, or for None, none of `SPACY_MODELS`.
            MissingExtraError: spaCy is not installed.
        """
        spacy = require("spacy", extra="spacy")
        wanted = [model] if model else SPACY_MODELS
        found = next((name for name in wanted if _is_model(spacy, name)), None)
        if found is None:
            raise DataNotFoundError(
                f"no spaCy model {' or '.join(wanted)}; `python -m spacy download {wanted[0]}`"
            )
        self._model = spacy.load(
            found, exclude=["parser", "ner", "lemmatizer", "senter", "entity_linker"]
        )
        meta = self._model.meta
        self.description = f"spacy {meta['lang']}_{meta['name']} {meta['version']}"

    def nouns(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The nouns of each name."""
        return [
            tuple(token.text.lower() for token in document if token.pos_ in ("NOUN", "PROPN"))
            for document in self._model.pipe(names)
        ]


def _is_model(spacy: Any, name: str) -> bool:
    return bool(spacy.util.is_package(name)) or Path(name, "meta.json").is_file()


class HeuristicNouns:
    """Considers every token a noun that contains a letter and is not a function word."""

    description = f"heuristic {HEURISTIC}"

    def __init__(self, *, is_fallback: bool = False) -> None:
        """Make the source; a fallback warns when it is first used."""
        self._is_to_warn = is_fallback

    def nouns(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The nouns of each name."""
        if self._is_to_warn:
            self._is_to_warn = False
            warnings.warn(HEURISTIC_WARNING, stacklevel=2)
        return [
            tuple(
                token
                for token in tokens(name)
                if _HAS_LETTER.search(token) and token not in FUNCTION_WORDS
            )
            for name in names
        ]


_FUNCTION_WORDS_TEXT = """
    a an the this that these those some any all both each every no
    i you he she it we they me him them us my your his her its our their
    who what which where when why how there here
    and or but nor so yet if while because although than as
    of in on at by for from to with without within into onto over under up down off out about
    above below across after against along among around before behind beside between beyond
    during inside near outside per through toward towards until upon via
    be is are was were been being am do does did has have had can could will would shall should may
    might must not one two three four five six seven eight nine ten x
    """
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())

# `_EDGES` removes punctuation and possessives around a word, `_INSIDE` splits at punctuation inside
# it, and `_UNIT` separates a unit from the number before it ("12oz").
_HAS_LETTER = re.compile(r"[^\W\d_]")
_EDGES = re.compile(r"^\W+|(?:['’]s)?\W*$|['’]s$", re.IGNORECASE)
_UNIT = re.compile(r"(?<=\d)(?=(?:[kdcmnµ]?m[²³]?|yd|in|ft|[km]?g|lb|oz|mph|[kmgt]b|[KMGT]B?)$)")
_INSIDE = re.compile(
    r"(?<=[^\W\d_])(?:[-–—~]+|,)(?=[^\W\d_])"  # between letters
    r"|(?<=[^\W_])[:<>=/](?=[^\W\d_])"
    r"|(?<=[a-z])\.(?=[A-Z])|\.{2,}|…|(?<=\d)[*+^-](?=\d)"
)


def tokens(name: str) -> list[str]:
    """The lower-case words of a name, roughly as spaCy's English tokenizer splits them.

    Punctuation around words and possessives are removed, words are split at hyphens, commas and
    slashes between letters, and units are separated from numbers.
    """
    return [
        word.lower()
        for chunk in name.split()
        for part in _INSIDE.split(_EDGES.sub("", chunk))
        for word in _UNIT.split(_EDGES.sub("", part))
        if word
    ]
