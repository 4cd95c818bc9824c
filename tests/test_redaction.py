import pytest

from ecomgpt_jax.redaction import MASK, mask_secrets, mask_text

TOKENS = (
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345", "ghp_0123456789abcdefghijABCDEFGHIJ012345", "sk-abcdefghijklmnop0123456789",
    "AIzaSyA0123456789abcdefghijklmnopqrstuvw", "AKIAIOSFODNN7EXAMPLE", "xoxb-1234567890-abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefg", "github_pat_11ABCDEFG0123456789_abcdef",
)  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_known_by_their_look(token: str) -> None:
    assert mask_text(f"a/{token}: no such file") == f"a/{MASK}: no such file"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pa55@host/x", f"https://{MASK}@host/x"),
        ("https://host/x?token=abc&y=1", f"https://host/x?token={MASK}&y=1"),
        ("Authorization: Bearer abcdefgh1234", f"Authorization: Bearer {MASK}"),
    ],
)
def test_urls_and_headers(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text", ["bigscience/bloomz-560m", "hf_weights.py", "runs/a@b", "user@example.org", "sk-learn", "https://host/a@b"]
)
def test_other_text_stays(text: str) -> None:
    assert mask_text(text) == text


def test_values_under_telling_keys() -> None:
    value = {
        "password": "x", "hf_token": "y", "api_key": ["z"], "nested": [{"client.secret": 5, "name": TOKENS[0]}],
        "tokenizer": "dir", "pad_token": "<pad>", "cls_token": "c", "max_new_tokens": 3, "token": "", "tuple": (1, "a"),
    }  # fmt: skip
    assert mask_secrets(value) == {
        "password": MASK, "hf_token": MASK, "api_key": MASK, "nested": [{"client.secret": MASK, "name": MASK}],
        "tokenizer": "dir", "pad_token": "<pad>", "cls_token": "c", "max_new_tokens": 3, "token": "", "tuple": (1, "a"),
    }  # fmt: skip
