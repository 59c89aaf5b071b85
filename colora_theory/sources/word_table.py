"""The table behind the source `words`: features and scores of words, computed once, kept with a checksum.

python -m colora_theory.sources.word_table              # compute and keep it in the cache folder
python -m colora_theory.sources.word_table OUT.npz      # write the scores that may be passed on, and all features
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from colora_theory.errors import InputError
from colora_theory.model.arrays import read_npz, written_npz
from colora_theory.model.linalg import Array
from colora_theory.sources.lexicons import LEXICONS, vocabulary
from colora_theory.sources.minilm import encode

#: Principal components that are kept, and the step in which whitened features are stored.
DIM: Final = 48
STEP: Final = 1e-3
#: Raised when what is computed changes, so that an older file in the cache is not taken for it.
VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class WordTable:
    """Features and scores of words.

    Attributes
    ----------
    words : the vocabulary, in alphabetical order. features : shape (words, DIM), mean zero and covariance I.
    scores : of every lexicon, shape (words,), NaN where it does not have a word. sha256 : of the file.
    """

    words: list[str]
    features: Array
    scores: dict[str, Array]
    sha256: str


def whitened(vectors: Array) -> Array:
    """The first DIM principal components of rows with mean zero, each scaled to variance one.

    Signs are chosen so that the loading of largest size is positive: no freedom is left to the library.
    """
    centred = vectors - vectors.mean(0)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    right = right[:DIM] * np.sign(np.take_along_axis(right[:DIM], np.abs(right[:DIM]).argmax(1)[:, None], 1))
    return np.asarray(centred @ right.T / values[:DIM] * np.sqrt(len(vectors)))


def compute() -> dict[str, Any]:
    """Encode the vocabulary and look its scores up: the arrays of a file, a minute's work on one core."""
    words = vocabulary()
    features = np.rint(whitened(encode(words).astype(float)) / STEP).astype(np.int16)
    scores = {name: lexicon.read(words) for name, lexicon in LEXICONS.items()}
    return {
        "words": np.array(words),
        "features": features,
        **{
            name: np.array([found.get(word, np.nan) for word in words], np.float32)
            for name, found in scores.items()
        },
    }


def read(content: bytes, where: str) -> WordTable:
    """A table from the bytes of a file; InputError for what is none."""
    try:
        arrays = read_npz(content)
        words, features = arrays.pop("words").tolist(), arrays.pop("features") * STEP
        scores = {name: array.astype(float) for name, array in arrays.items()}
        if {len(features), *map(len, scores.values())} != {len(words)} or features.ndim != 2:
            raise ValueError("its arrays differ in length")
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError(
            f"{where} is no table of words ({error}); restore it, or remove it to compute it anew."
        ) from None
    for array in (features, *scores.values()):
        array.flags.writeable = False
    return WordTable(words, features, scores, hashlib.sha256(content).hexdigest())


def cache_file() -> Path:
    """Where the computed table is kept: COLORA_THEORY_CACHE, else the user's cache folder."""
    base = os.environ.get("COLORA_THEORY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache"), "colora_theory"
    )
    return Path(base) / f"words-{VERSION}.npz"


@functools.cache
def load(path: str = "") -> WordTable:
    """The table in a file, or (without a path) the one in the cache, computed if it is not there.

    Beside the file in the cache lies its SHA-256; a file that no longer has it is refused.
    """
    if path:
        try:
            return read(Path(path).read_bytes(), path)
        except OSError as error:
            raise InputError(f"the table of words {path} cannot be read: {error.strerror or error}.") from None
    file = cache_file()
    if not file.exists():
        return _kept(file)
    found = read(content := file.read_bytes(), str(file))
    note = file.with_suffix(".sha256")
    if not note.exists() or note.read_text().strip() != hashlib.sha256(content).hexdigest():
        raise InputError(f"{file} is not as it was written; remove it, and it is computed anew.")
    return found


def _kept(file: Path) -> WordTable:
    content = written_npz(compute())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for path, part in (
            (file.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode()),
            (file, content),
        ):
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_bytes(part)
            draft.replace(path)  # whole or not there, also when two processes compute it at once
    except OSError as error:
        raise InputError(f"cannot keep the table of words in {file.parent}: {error.strerror or error}.") from None
    return read(content, str(file))


def main(arguments: list[str]) -> None:
    """Compute the table; with the name of a file, write there what may be passed on."""
    if not arguments:
        found = load()
        print(f"{cache_file()}: {len(found.words)} words, SHA-256 {found.sha256}")
        return
    arrays = compute()
    shared = {n: a for n, a in arrays.items() if n not in LEXICONS or LEXICONS[n].shared}
    content = written_npz(shared)
    Path(arguments[0]).write_bytes(content)
    print(f"{arguments[0]}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1:])
