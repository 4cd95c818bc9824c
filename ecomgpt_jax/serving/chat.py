"""Conversations as prompts: by the checkpoint's chat template, else in the layout that training gives messages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import transformers

from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct import own_data

Message = dict[str, str]  # role and content
Render = Callable[[Sequence[Message]], list[int]]


def load_chat(tokenizer: Tokenizer) -> tuple[Render, str]:
    """Returns what makes a prompt's ids of a conversation, and in a few words which layout that is.

    A template runs in jinja's sandbox, as transformers runs it. Control tokens are those that the template writes: what
    looks like one in a message stays text.

    Raises:
      DataError: (what is returned) the layout does not take such a conversation.
    """
    directory = Path(tokenizer.directory)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    if not loaded.chat_template:

        def released(messages: Sequence[Message]) -> list[int]:
            return tokenizer.encode_prompts([own_data.prompt_of({"messages": list(messages)})])[0]

        return released, "the released layout"

    def templated(messages: Sequence[Message]) -> list[int]:
        try:
            ids = loaded.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
            )
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise DataError(f"the chat template refuses the messages: {str(error).splitlines()[0]:.200}") from error
        return list(ids)

    return templated, "its chat template"
