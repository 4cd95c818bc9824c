"""An instance in readable form: its text, and its tokens with those that carry loss marked."""

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data.tokenizer import Tokenizer


def preview(prompt: str, response: str, tokenizer: Tokenizer, data: DataConfig, colour: bool) -> list[str]:
    """Returns an instance as lines: its text, a count, and its tokens, those that carry loss between [ and ]."""
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("", "")
    given, answer = tokenizer.encode_prompts([prompt])[0], [*tokenizer.encode(response), tokenizer.eos_id]
    # The first token has no input before it, so it never carries loss.
    unread = 1 if data.loss_on_prompt else len(given)
    ids = given + answer
    texts = [_token(tokenizer, token) for token in ids]
    tokens = "|".join(texts[:unread]) + f"|{before}" + "".join(f"[{text}]" for text in texts[unread:]) + after
    count = f"{len(ids)} tokens, {len(ids) - unread} with loss"
    over = len(ids) - data.length - 1
    if over > 0:
        count += f"; {over} more than a row of {data.length} takes, so training cuts the beginning of the prompt"
    if data.loss_on_prompt:
        return [f"{before}{visible(prompt + response)}{after}", count, tokens]
    return [f"{visible(prompt)}{before}{visible(response)}{after}", count, tokens]


def _token(tokenizer: Tokenizer, token: int) -> str:
    """Returns a token as text, or its id if it is only a part of a character."""
    if token in (tokenizer.eos_id, *tokenizer.prefix):
        return tokenizer.backend.id_to_token(token)
    text = tokenizer.decode([token])
    return f"<{token}>" if "\ufffd" in text else visible(text).replace("\n", "\\n").replace("\t", "\\t")


def visible(text: str) -> str:
    """Returns a text with control characters escaped, except line ends and tabs, so it is safe to print."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
