import json
from pathlib import Path

import pytest
import tokenizers
import transformers

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data.token_store import tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, find_tokenizer, load_tokenizer
from ecomgpt_jax.errors import DataError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: the answer after the last user is rendered behind an empty block of thoughts.
THINKING = CHATML.replace(
    "{{ m.content }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DATED = "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ date_string }}" + CHATML
LLAMA = "{{ bos_token }}{{ date_string }}" + CHATML
TEMPLATES = {"chatml": CHATML, "thinking": THINKING, "gemma": GEMMA, "dated": DATED, "llama": LLAMA}
CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>")
TEXTS = ["Is this shirt <|im_end|>red?", "  红色\n\n### Response:", "<s>", "a</s>b<end_of_turn>\n"]


def save(folder: Path, template: str) -> Path:
    """A byte-level tokenizer that puts <s> before a text, with this chat template."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["user\n assistant\nmodel\nshirt 红色 ### Response:"] * 9, trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def rendered(folder: Path, text: str, *answer: str) -> str:
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": "user", "content": text}, *({"role": "assistant", "content": each} for each in answer)]
    return theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not answer, date_string="26 Jul 2024"
    )


@pytest.mark.parametrize("name", ["chatml", "thinking", "gemma", "llama"])
def test_ids_are_those_of_the_rendered_chat_and_hold_one_bos(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / name, TEMPLATES[name])
    found = load_tokenizer(folder, "chat")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("red shirt?", "user\n\n", "  two words 红色 ", "x"):
        (ids,) = found.encode_prompts([text])
        whole = theirs.encode(rendered(folder, text, "yes"), add_special_tokens=False).ids
        assert whole[: len(ids)] == ids
        assert whole[len(ids) : len(ids) + 2] == [*found.encode("yes"), found.eos_id][:2]
        assert ids.count(0) == (name in ("gemma", "llama"))
    end = "<end_of_turn>" if name == "gemma" else "<|im_end|>"
    assert found.stop_ids == (CONTROL.index(end), 1)
    assert found.token_ids["eos_token_id"] == [CONTROL.index(end), 1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_text_never_becomes_a_control_token(name: str, tmp_path: Path) -> None:
    found = load_tokenizer(save(tmp_path / name, TEMPLATES[name]), "chat")
    (empty,) = found.encode_prompts(["x"])
    supplied = [index for index in empty if index < len(CONTROL)]
    for ids in found.encode_prompts(TEXTS):
        assert [index for index in ids if index < len(CONTROL)] == supplied


def test_the_end_of_an_answer_carries_loss_and_cut_prompts_keep_the_frame(tmp_path: Path) -> None:
    found = find_tokenizer(save(tmp_path / "gemma", GEMMA), [], "", DataConfig(template="chat"))
    store = tokenize([{"prompt": "red " * 90, "response": "yes"}], "x", found, 40, tmp_path / "cache")
    assert (len(store.tokens), store.cut_prompts, store.tokens[-1]) == (41, 1, CONTROL.index("<end_of_turn>"))
    head, tail = found.prefix, found.turn.tail
    assert tuple(store.tokens[: len(head)]) == head
    prompt = store.tokens[: store.prompt_lengths[0]]
    assert tuple(prompt[len(prompt) - len(tail) :]) == tail
    assert head[0] == 0
    assert head[1] == CONTROL.index("<start_of_turn>")


def test_the_date_does_not_change_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "dated", DATED)
    first = load_tokenizer(folder, "chat")
    assert "26 Jul 202426 Jul 2024" in first.decode(first.encode_prompts(["x"])[0])
    from transformers.utils import chat_template_utils

    class Later(chat_template_utils.datetime):
        @classmethod
        def now(cls, *zone: object) -> chat_template_utils.datetime:
            return cls(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert load_tokenizer(folder, "chat").fingerprint == first.fingerprint


def test_a_saved_tokenizer_remembers_the_layout_it_was_trained_with(tmp_path: Path) -> None:
    folder = save(tmp_path / "chatml", CHATML)
    plain, chat = load_tokenizer(folder), load_tokenizer(folder, "chat")
    assert plain.turn is None
    assert plain.fingerprint != chat.fingerprint
    chat.save(tmp_path / "saved")
    again: Tokenizer = load_tokenizer(tmp_path / "saved")
    assert (again.turn, again.eos_id, again.stop_ids) == (chat.turn, chat.eos_id, chat.stop_ids)
    assert load_tokenizer(tmp_path / "saved", "released").turn is None
    generation = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [3, 1]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "no chat template"),
        ("{{ raise_exception('system first') }}", r"fails on one turn \(system first"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}</s>{% endfor %}", "once each"),
        ("{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}", "once each"),
        ("{% for m in messages %}{{ m.content }}|{% endfor %}", "no control token after an answer"),
        (CHATML.replace("assistant\n{% endif", "bot\n{% endif"), "begins an answer otherwise"),
        ("{% for m in messages %}{{ m.content | replace(' ', '_') }}</s>{% endfor %}", "changes a user's text"),
    ],
)
def test_other_templates_are_refused(template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_tokenizer(save(tmp_path / "t", template), "chat")
    with pytest.raises(DataError, match="trained here has no chat template"):
        find_tokenizer("", [], "", DataConfig(template="chat", cache_dir=str(tmp_path)))


def test_tags_of_an_answers_parts_are_decoded_where_no_file_marks_them_special(tmp_path: Path) -> None:
    """As HF decodes Qwen3's `<think>`; they stay control tokens, which no text becomes."""
    folder = save(tmp_path / "t", THINKING)
    state = json.loads((folder / "tokenizer.json").read_text())
    for plain in (False, True):
        for token in state["added_tokens"]:
            token["special"] = not (plain and ("think" in token["content"] or "im_" in token["content"]))
        (folder / "tokenizer.json").write_text(json.dumps(state))
        found, theirs = load_tokenizer(folder), transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        marks = dict(zip(CONTROL, theirs.convert_tokens_to_ids(CONTROL), strict=True))
        answer = [marks["<think>"], *found.encode("red"), marks["</think>"], *found.encode(" shirt"), marks["</s>"]]
        expected = "<think>red</think> shirt" if plain else "red shirt"
        assert found.decode(answer) == theirs.decode(answer, skip_special_tokens=True) == expected
        assert not found.control.keys() & {*found.encode("<think> </think> <|im_end|>")}
        assert found.decode([marks["<|im_end|>"], marks["<|im_start|>"]]) == "", "the marks of a turn are no text"


def test_a_control_token_without_a_row_is_no_obstacle(tmp_path: Path) -> None:
    """Gemma's <image_soft_token> has an id past the rows of the text-only checkpoints."""
    folder = save(tmp_path / "t", CHATML)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = backend.get_vocab_size()
    backend.add_special_tokens(["<image_soft_token>"])
    backend.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(folder)
    assert found.size == rows + 1
    check_vocabulary(found, rows)
    assert max(found.encode("a <image_soft_token> b")) < rows
    with pytest.raises(DataError, match="ids go up to"):
        check_vocabulary(found, rows - 1)
