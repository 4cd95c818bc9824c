from pathlib import Path

import jax
import numpy as np
import pytest
from toy import toy_config

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.data.tokenizer import train_tokenizer
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.model.bloom import init_params
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.loading import load


def test_weights_come_with_their_tokenizer_and_a_fingerprint(tmp_path: Path) -> None:
    model, mesh = toy_config().model, make_mesh(MeshConfig())
    model.vocab_size = 384
    params = init_params(model, jax.random.key(0))
    tokenizer = train_tokenizer(["a mug", "a red mug"], 300, tmp_path / "tokenizer")
    save_hf(params, model, tmp_path / "with", tokenizer_dir=tmp_path / "tokenizer")
    loaded = load(str(tmp_path / "with"), mesh)
    assert str(loaded.place) == str(tmp_path / "with")
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert (loaded.model.embed, loaded.model.vocab_size) == (32, 384)
    assert all(map(np.array_equal, jax.tree.leaves(loaded.params), jax.tree.leaves(params)))
    assert loaded.fingerprint == load(str(tmp_path / "with"), mesh).fingerprint != ""


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    model, mesh = toy_config().model, make_mesh(MeshConfig())
    params = init_params(model, jax.random.key(0))
    save_hf(params, model, tmp_path / "without")
    with pytest.raises(MissingInputError, match=r"no tokenizer\.json"):
        load(str(tmp_path / "without"), mesh)
    train_tokenizer(["a mug"], 300, tmp_path / "tokenizer")
    save_hf(params, model, tmp_path / "small", tokenizer_dir=tmp_path / "tokenizer")
    with pytest.raises(DataError):
        load(str(tmp_path / "small"), mesh)
