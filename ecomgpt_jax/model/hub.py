"""Weights that a config names: a directory, or `owner/name@revision` on the Hugging Face Hub.

A revision is required, so that a run records its start; a branch is pinned to its current commit. For private models
use `hf auth login`; no setting here holds a token.
"""

import logging
import os
import re

from etils import epath

from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.files import TOKENIZER_FILES
from ecomgpt_jax.waiting import notice

_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([A-Za-z0-9][\w./-]*)")
_BESIDE = ("*.json", *TOKENIZER_FILES)


def is_hub_id(name: str) -> bool:
    """Returns whether `name` is `owner/name@revision` and not an existing directory of this name."""
    return bool(_HUB.fullmatch(name)) and not os.path.exists(name)


def find_weights(name: str) -> tuple[str, epath.Path]:
    """Returns (the name with its revision pinned, the directory), and downloads missing files.

    Args:
      name: a directory, returned unchanged, or `owner/name@revision`.

    Raises:
      MissingInputError: the Hub, the model or the revision cannot be reached; or `name` is a Hub id without a revision.
    """
    match = _HUB.fullmatch(name)
    if not is_hub_id(name) or match is None:
        if re.fullmatch(r"[\w-]+/[\w.-]+", name) and not os.path.exists(os.path.expanduser(name)):
            raise MissingInputError(f"{name}: no such directory; a model of the Hub is named {name}@REVISION")
        return name, epath.Path(name).expanduser()
    import huggingface_hub

    repo, revision = match.groups()
    try:
        with notice(f"the Hub to resolve {name}, up to 20 s"):
            info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=20)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in names) else "*.bin"
        pinned, patterns = str(info.sha), [*_BESIDE, weights]
    except Exception as error:  # the client raises its own errors, httpx's and OSError
        pinned, patterns, reason = revision, [*_BESIDE, "*.safetensors", "*.bin"], error
    else:
        reason = None
    try:
        with notice(f"the files of {name} from the Hub"):
            folder = huggingface_hub.snapshot_download(
                repo, revision=pinned, allow_patterns=patterns, local_files_only=reason is not None
            )
    except Exception as error:
        text = (str(reason or error).strip() or type(error).__name__).splitlines()[0][:160]
        raise MissingInputError(
            f"{name}: not on this disk, and the Hub gave no copy ({text}); download it where there is a network "
            "and give its directory"
        ) from None
    commit = os.path.basename(folder)
    if commit != revision:
        logging.warning("%s: %s is commit %s now, which is pinned", repo, revision, commit)
    return f"{repo}@{commit}", epath.Path(folder)
