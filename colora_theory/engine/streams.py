"""Random streams: stateless, so that a trial can be drawn again alone, anywhere.

The stream of a key is PCG64(SeedSequence(seed, spawn_key=key)). `streams` makes those of many trials at once; the
hashing that NumPy does for each of them is the larger part of a tiny trial's cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.random.bit_generator import ISeedSequence

#: First word of every spawn key.
TRUTH, DATA, ESTIMATOR = 0, 1, 2

# The constants of NumPy's SeedSequence, which promises never to change them (O'Neill 2015, "Simple portable C++
# seed entropy").
_POOL: Final = 4
_A, _MULT_A, _B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_LEFT, _RIGHT = 0xCA01F9DD, 0x4973F715
_MASK: Final = 2**32 - 1


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def streams(seed: int, key: Sequence[int], last: Sequence[int]) -> Iterator[np.random.Generator]:
    """Yield `stream(seed, *key, word)` for every last word (each below 2^32)."""
    words = [*_words(seed)]
    words += [0] * (_POOL - len(words))
    for each in key:
        words += _words(each)
    ends = np.asarray(last, dtype=np.uint64)
    for state in _states(words, ends):
        known: Any = _Known(state)  # the stubs of NumPy miss seed sequences of one's own
        yield np.random.Generator(np.random.PCG64(known))


class _Known(ISeedSequence):
    """Seeds that have been computed already."""

    def __init__(self, state: np.ndarray) -> None:
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the seeds of PCG64, four words of 64 bits."""
        assert n_words == len(self._state)
        return self._state


def _words(number: int) -> list[int]:
    """A number's 32-bit words, the lowest first; one word for zero."""
    out = [int(number) & _MASK]
    while number := int(number) >> 32:
        out.append(number & _MASK)
    return out


class _Hash:
    """Hashing of words by a multiplier that changes from word to word; words are integers or arrays of them."""

    def __init__(self, constant: int, multiplier: int) -> None:
        self.constant, self.multiplier = constant, multiplier

    def __call__(self, value: Any) -> Any:
        value = value ^ self.constant
        self.constant = self.constant * self.multiplier & _MASK
        value = value * self.constant & _MASK
        return value ^ value >> 16


def _mix(x: Any, y: Any) -> Any:
    result = (x * _LEFT & _MASK) - (y * _RIGHT & _MASK) & _MASK
    return result ^ result >> 16


def _states(words: list[int], last: np.ndarray) -> np.ndarray:
    """SeedSequence.generate_state(4, uint64) for entropy `words` and one further word, shape (trials, 4)."""
    spread = _Hash(_A, _MULT_A)
    pool: list[Any] = [spread(words[i]) for i in range(_POOL)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = _mix(pool[target], spread(pool[source]))
    for word in words[_POOL:]:
        pool = [_mix(each, spread(word)) for each in pool]
    pool = [_mix(np.full_like(last, each), spread(last)) for each in pool]
    draw = _Hash(_B, _MULT_B)
    halves = np.array([draw(pool[i % _POOL]) for i in range(2 * _POOL)], dtype=np.uint64)
    return np.ascontiguousarray((halves[::2] | halves[1::2] << np.uint64(32)).T)
