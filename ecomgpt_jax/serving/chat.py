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
    """Returns a function from a conversation to a prompt's ids, and the name of the layout.

    A template runs in jinja's sandbox, as transformers runs it. Control tokens come from the template alone; text in a
    message that looks like one stays text.

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
