"""Renders conversations: by the checkpoint's chat template, else in the layout of messages in training."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import transformers

from ecomgpt_jax.data.chat import freeze_date
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct import own_data

Message = dict[str, str]  # role and content
Render = Callable[[Sequence[Message], Mapping[str, Any]], list[int]]


def load_chat(tokenizer: Tokenizer) -> tuple[Render, str]:
    """Returns a function from a conversation and a template's variables to a prompt's ids, and the layout's name.

    A template is rendered in jinja's sandbox, as in transformers. Only the template adds control tokens; text in a
    message that looks like one stays text. If the weights were trained in the template's layout, it prints the date of
    training, else today's.

    Raises:
      DataError: (raised by the returned function) the layout does not support the conversation or a variable.
    """
    directory = Path(tokenizer.directory)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    if not loaded.chat_template:

        def released(messages: Sequence[Message], variables: Mapping[str, Any]) -> list[int]:
            if variables:
                raise DataError(f"{next(iter(variables))}: a variable of a chat template, and this model has none")
            return tokenizer.encode_prompts([own_data.prompt_of({"messages": list(messages)})])[0]

        return released, "the released layout"

    fixed = freeze_date(loaded) if tokenizer.turn else {}
    reserved = inspect.signature(loaded.apply_chat_template).parameters.keys() | fixed.keys()

    def templated(messages: Sequence[Message], variables: Mapping[str, Any]) -> list[int]:
        if taken := reserved & variables.keys():
            raise DataError(f"{min(taken)}: set by the server; it cannot be a variable of the chat template")
        try:
            ids = loaded.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True,
                **fixed, **variables,
            )  # fmt: skip
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise DataError(f"the chat template refuses the messages: {str(error).splitlines()[0]:.200}") from error
        return list(ids)

    return templated, "its chat template"
