"""The encoder against a slow one, and the table of words: whitened, whole, the same bytes again."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import colora_theory as ct
from colora_theory.model.arrays import written_npz
from colora_theory.sources import lexicons, minilm, word_table

TABLE = Path(__file__).parent.parent / "experiments" / "words" / "words.npz"


def random_weights(rng: np.random.Generator, width: int = 24, inner: int = 40) -> dict[str, np.ndarray]:
    """A small encoder of the same layout."""
    shapes = {f"embeddings.{part}_embeddings.weight": (9, width) for part in ("word", "position", "token_type")}
    shapes |= {f"embeddings.LayerNorm.{end}": (width,) for end in ("weight", "bias")}
    for i in range(minilm.LAYERS):
        layer = f"encoder.layer.{i}"
        sizes = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width)}
        sizes |= {"output.dense": (width, inner)}
        for name, size in sizes.items():
            shapes |= {f"{layer}.{name}.weight": size, f"{layer}.{name}.bias": size[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}.{name}.{end}": (width,) for end in ("weight", "bias")}
    return {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


def slow_layers(ids: list[int], weights: dict[str, np.ndarray]) -> np.ndarray:
    """The same encoder for one text, head by head and token by token, with math.erf."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return (
            np.array([(row - row.mean()) / math.sqrt(row.var() + 1e-12) for row in x]) * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.array([weights[f"{name}.weight"] @ row + weights[f"{name}.bias"] for row in x])

    table = {part: weights[f"embeddings.{part}_embeddings.weight"] for part in ("word", "position", "token_type")}
    x = np.array([table["word"][i] + table["position"][j] + table["token_type"][0] for j, i in enumerate(ids)])
    x = norm(x, "embeddings.LayerNorm")
    width, size = x.shape[1], x.shape[1] // minilm.HEADS
    for number in range(minilm.LAYERS):
        layer = f"encoder.layer.{number}"
        q, k, v = (linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        seen = np.zeros((len(ids), width))
        for head in range(minilm.HEADS):
            part = slice(head * size, (head + 1) * size)
            for i in range(len(ids)):
                scores = np.array([q[i, part] @ k[j, part] / math.sqrt(size) for j in range(len(ids))])
                shares = np.exp(scores) / np.exp(scores).sum()
                seen[i, part] = sum(share * v[j, part] for j, share in enumerate(shares))
        x = norm(x + linear(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = np.vectorize(lambda value: value * 0.5 * (1.0 + math.erf(value / math.sqrt(2.0))))(inner)
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def test_the_encoder_is_a_slow_one() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng)
    ids = rng.integers(0, 9, size=(3, 5))
    got = minilm._layers(ids, {name: array.astype(np.float32) for name, array in weights.items()})
    for i in range(3):
        np.testing.assert_allclose(got[i], slow_layers(list(ids[i]), weights), rtol=2e-3, atol=2e-4)


def test_whitened_features_are_principal_components_of_variance_one() -> None:
    """Against the eigenvectors of the covariance; a rotation of the vectors changes nothing but signs."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((400, 60)) @ np.diag(np.linspace(3, 0.2, 60)) + 7.0
    got = word_table.whitened(vectors)
    assert got.shape == (400, word_table.DIM)
    np.testing.assert_allclose(got.T @ got / 400, np.eye(word_table.DIM), atol=1e-10)
    centred = vectors - vectors.mean(0)
    values, axes = np.linalg.eigh(centred.T @ centred / 400)
    slow = (centred @ axes / np.sqrt(values))[:, ::-1][:, : word_table.DIM]
    np.testing.assert_allclose(np.abs(got), np.abs(slow), atol=1e-8)
    turned = word_table.whitened(vectors @ np.linalg.qr(rng.standard_normal((60, 60)))[0])
    np.testing.assert_allclose(np.abs(turned), np.abs(got), atol=1e-8)


def test_the_table_that_comes_with_the_study() -> None:
    assert TABLE.stat().st_size <= 2_000_000
    table = word_table.load(str(TABLE))
    assert table.sha256 == hashlib.sha256(TABLE.read_bytes()).hexdigest()
    assert len(table.words) == 8806 == len(set(table.words))
    np.testing.assert_allclose(table.features.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.cov(table.features.T, bias=True), np.eye(48), atol=1e-3)
    assert set(table.scores) == {name for name, lexicon in lexicons.LEXICONS.items() if lexicon.shared}
    at = {word: i for i, word in enumerate(table.words)}
    assert table.scores["afinn"][at["outstanding"]] == 5.0
    assert table.scores["vader"][at["happy"]] == pytest.approx(2.7)
    assert table.scores["length"][at["happy"]] == 5.0
    for name, lexicon in lexicons.LEXICONS.items():
        assert lexicon.licence, name
        assert not (lexicon.shared and (lexicon.machine_made or "SA" in lexicon.licence)), name
    assert lexicons.LEXICONS["disagreement"].of == "vader"


def test_a_file_of_the_same_arrays_has_the_same_bytes(tmp_path: Path) -> None:
    arrays = {
        "words": np.array(["a", "b"]),
        "features": np.array([[1], [2]], np.int16),
        "vader": np.array([1, np.nan]),
    }
    content = written_npz(arrays)
    assert content == written_npz(arrays)
    table = word_table.read(content, "it")
    assert table.words == ["a", "b"]
    np.testing.assert_allclose(table.features, [[0.001], [0.002]])
    np.testing.assert_array_equal(table.scores["vader"], [1, np.nan])
    for damaged in (b"", content[:50], written_npz({**arrays, "vader": np.array([1.0])})):
        with pytest.raises(ct.InputError, match="is no table of words"):
            word_table.read(damaged, "it")


def test_the_cache_computes_once_and_notices_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    arrays = {
        "words": np.array(["ab", "cd"]),
        "features": np.array([[1], [2]], np.int16),
        "vader": np.array([1, 2]),
    }
    monkeypatch.setattr(word_table, "compute", lambda: calls.append(1) or arrays)
    monkeypatch.setenv("COLORA_THEORY_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        word_table.load.cache_clear()
        assert word_table.load().words == ["ab", "cd"]
    assert len(calls) == 1
    file = word_table.cache_file()
    file.write_bytes(written_npz({**arrays, "vader": np.array([1, 3])}))
    word_table.load.cache_clear()
    with pytest.raises(ct.InputError, match="is not as it was written; remove it"):
        word_table.load()
    word_table.load.cache_clear()


def test_what_is_not_installed_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.split(".")[0] in ("safetensors", "senticnet", "wordfreq"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for ask in (
        lambda: minilm.encode(["a"]),
        lambda: lexicons.LEXICONS["senticnet"].read(["a"]),
        lambda: lexicons.LEXICONS["frequency"].read(["a"]),
        lambda: lexicons._text("no-such-package", "file.txt"),
    ):
        with pytest.raises(ct.InputError, match=r"pip install 'colora_theory\[words\]'"):
            ask()


@pytest.mark.parametrize("name", ["words", "words_independent"])
def test_the_quick_form_needs_no_model_and_gives_the_same_numbers_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_table, "compute", lambda: pytest.fail("the quick form computed features"))
    monkeypatch.setenv("COLORA_THEORY_CACHE", str(tmp_path / "empty"))
    study = ct.Study.from_toml(TABLE.parent / f"{name}.toml", quick=True)
    frames = [ct.run(study, tmp_path / str(i), backend="inline").frame() for i in range(2)]
    one, two = (frame[frame.metric != "seconds"].reset_index(drop=True) for frame in frames)
    pd.testing.assert_frame_equal(one, two)
    assert (one["value"][one.metric == "held_out_error"] > 0).all()
    ratios = one[(one.metric == "held_out_ratio") & (one.estimator == "alone")]["value"]
    assert (ratios == 1.0).all()


@pytest.mark.parametrize("name", ["words", "words_independent", "words_rivals"])
def test_the_mixes_are_those_of_the_claim(name: str) -> None:
    """Every study states its cosines in a comment; from the shared table where it has the scores."""
    file = TABLE.parent / f"{name}.toml"
    study = ct.Study.from_toml(file)
    table = word_table.load(str(TABLE))
    mixes = {cell.varied["mix"]: cell.setting for cell in study.cells}
    used = {lexicon for source in mixes.values() for lexicon in source.lexicons}
    if name == "words_independent":
        for lexicon in used:
            found = lexicons.LEXICONS[lexicon]
            assert not found.machine_made, lexicon
            assert not found.of, lexicon
    told = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# Cosines")]
    stated = [float(text) for text in re.findall(r"\d\.\d+|\d(?=[,.])", told[0])]
    assert len(stated) == len(mixes) == 6
    for cosine, source in zip(stated, mixes.values(), strict=True):
        if set(source.lexicons) <= set(table.scores):
            assert source.cosine(table) == pytest.approx(cosine, abs=0.006)
