"""What a command needs to use a checkpoint, found and loaded in one step."""

from typing import NamedTuple

from etils import epath
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from ecomgpt_jax.model.hub import find_weights
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.training.checkpoint import load_checkpoint, tokenizer_directory, weights_fingerprint


class Loaded(NamedTuple):
    """A checkpoint in use.

    Attributes:
      place: its directory.
      params: the weights.
      model: their shape.
      tokenizer: the one that belongs to them.
      fingerprint: changes when the files do (`weights_fingerprint`).
    """

    place: epath.Path
    params: Params
    model: ModelConfig
    tokenizer: Tokenizer
    fingerprint: str


def load(name: str, mesh: Mesh) -> Loaded:
    """Loads a workdir, a step directory, a Hugging Face directory or `owner/name@revision`, with its tokenizer.

    Raises:
      MissingInputError: there is no checkpoint, or no tokenizer beside it.
      DataError: it is damaged, or the tokenizer has more words than the model.
    """
    place = find_weights(name)[1]
    tokenizer = load_tokenizer(tokenizer_directory(place))  # before the weights, which take longer
    params, model = load_checkpoint(place, mesh)
    check_vocabulary(tokenizer, model.vocab_size)
    return Loaded(place, params, model, tokenizer, weights_fingerprint(place))
