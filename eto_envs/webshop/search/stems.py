"""Porter's stemmer, as in Lucene 8.11 (`PorterStemFilter`).

This is the algorithm of Martin Porter's later program, not of his 1980 paper: words of one or two
letters are not changed, and step 2 has `bli` and `logi`. It is equivalent to nltk's
`PorterStemmer(mode="MARTIN_EXTENSIONS")`, with which the tests compare it. nltk is not used here
because importing it takes 0.7 s.
"""

from __future__ import annotations

_VOWELS = frozenset("aeiou")

# Suffixes and replacements, tried in order; the first suffix that matches is used.
_STEP_3 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"),
    ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"),
    ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
    ("logi", "log"),
)  # fmt: skip
_STEP_4 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_STEP_5 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion",
    "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def stem(word: str) -> str:
    """The stem of a word.

    Args:
        word: a word in lower case; letters other than a to z count as consonants.

    Returns:
        Its stem; the word itself if it has at most two letters.
    """
    if not word.isascii() and max(word) > "\uffff":
        # Lucene processes UTF-16 units, so a letter above U+FFFF is two different consonants.
        units = "".join(_surrogates(letter) for letter in word)
        return _stem(units).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    return _stem(word)


def _surrogates(letter: str) -> str:
    """The letter as one or two UTF-16 units, each as a character."""
    code = ord(letter) - 0x10000
    return letter if code < 0 else chr(0xD800 + (code >> 10)) + chr(0xDC00 + (code & 0x3FF))


def _stem(word: str) -> str:
    if len(word) <= 2:
        return word
    word = _strip_plural(word)
    word = _strip_past(word)
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    if len(word) > 1:
        word = _replace_suffix(_replace_suffix(word, _STEP_3), _STEP_4)
    return _strip_final_e(_strip_long_suffix(word))


def _shape(word: str) -> str:
    """The word with `c` for each consonant and `v` for each vowel."""
    shape: list[str] = []
    kind = "v"
    for letter in word:
        vowel = letter in _VOWELS or (letter == "y" and kind == "c" and bool(shape))
        kind = "v" if vowel else "c"
        shape.append(kind)
    return "".join(shape)


def _measure(word: str) -> int:
    """Porter's measure m: the number of vowel runs that are followed by a consonant run."""
    return _shape(word).count("vc")


def _ends_double(word: str) -> bool:
    """Whether the word ends with a double consonant."""
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _ends_short(word: str) -> bool:
    """Whether the word ends with consonant, vowel, consonant, and the last is not w, x or y."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"


def _strip_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _strip_past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    base = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    if "v" not in _shape(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _ends_double(base):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _ends_short(base) else base


def _replace_suffix(word: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for suffix, replacement in replacements:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + replacement if _measure(base) > 0 else word
    return word


def _strip_long_suffix(word: str) -> str:
    for suffix in _STEP_5:
        if word.endswith(suffix):
            n_kept = 1 if suffix in ("sion", "tion") else 0  # only "ion" is removed
            base = word[: len(word) - len(suffix) + n_kept]
            return base if _measure(base) > 1 else word
    return word


def _strip_final_e(word: str) -> str:
    measure = _measure(word)
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _ends_short(word[:-1]))):
        word = word[:-1]
    return word[:-1] if measure > 1 and word.endswith("ll") else word
