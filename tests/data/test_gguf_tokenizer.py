"""The originals are tokenizers of the published kinds, trained here on a few texts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from ecomgpt_jax.data.gguf_tokenizer import SPLITS, pre_tokenizer_name, vocabulary, write_tokenizer
from ecomgpt_jax.data.tokenizer import load_tokenizer
from ecomgpt_jax.errors import DataError

ENGLISH = "Classify the sentiment of this product review. The red ceramic mug isn't what I'd expect; we've paid $12.50"
OTHERS = "请将下面的商品标题分类 这款陶瓷马克杯质量很好 ，物流也快。 价格99元 👍 👨‍👩‍👧 ½① é привет 日本語"
CODE = (
    """def f(x):\n    return x**2~{a[i]+=1;}~https://x.com/a?b=c&d=%20~<div class="a">~a_b-c.d~|~12345~3.14~1 2 3~10%"""
)
SPACES = (" ", "  ", "\n", "\n\n", "\t", " \n", "\r\n", "\u3000", "\xa0")
PIECES = [*ENGLISH.split(" "), *OTHERS.split(" "), *CODE.split("~"), *SPACES]


def prompts(count: int = 2000) -> list[str]:
    draw = random.Random(0)

    def text() -> str:
        return "".join(draw.choice(PIECES) + draw.choice(["", " "]) for _ in range(draw.randint(1, 14)))

    return [text() for _ in range(count)]


def original(kind: str) -> tokenizers.Tokenizer:
    """A trained tokenizer, as its family publishes it."""
    if kind in SPLITS:
        backend = tokenizers.Tokenizer(models.BPE(ignore_merges=kind in ("llama-bpe", "tekken")))
        patterns = [pattern for pattern in SPLITS[kind] if pattern not in ("gpt2", "digits")]
        parts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
        parts += [pre_tokenizers.Digits(individual_digits=True)] if "digits" in SPLITS[kind] else []
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex="gpt2" in SPLITS[kind])
        backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level]) if parts else byte_level
        backend.decoder = decoders.ByteLevel()
        alphabet, specials = pre_tokenizers.ByteLevel.alphabet(), ["<unk>", "<s>", "</s>", "<pad>", "<|im_end|>"]
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if kind == "gemma":
            backend.normalizer = normalizers.Replace(" ", "\u2581")
            backend.decoder = decoders.Sequence(
                [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
            )
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
            backend.decoder = decoders.Sequence(
                [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
        alphabet, specials = [], ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials[:5] if kind in SPLITS else specials, initial_alphabet=sorted(alphabet),
        show_progress=False, limit_alphabet=300,
    )  # fmt: skip
    backend.train_from_iterator([text for text in prompts(300) if "👨" not in text or kind in SPLITS], trainer)
    if kind not in SPLITS:  # bytes are ordinary entries, and every split of a token is a merge, as a conversion has it
        description = json.loads(backend.to_str())
        description["added_tokens"] = [entry for entry in description["added_tokens"] if "0x" not in entry["content"]]
        vocab, rank = description["model"]["vocab"], {}
        for place, (left, right) in enumerate(description["model"]["merges"]):
            rank.setdefault(left + right, place)
        pairs = [(place, -at, token[:at], token[at:]) for token, place in rank.items() for at in range(1, len(token))]
        description["model"]["merges"] = [list(pair[2:]) for pair in sorted(pairs) if vocab.keys() >= {*pair[2:]}]
        backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    if kind in ("gemma", "llama", "llama-bpe"):
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def files_of(backend: tokenizers.Tokenizer, folder: Path, template: str = "") -> Path:
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("kind", [*SPLITS, "gemma", "llama"])
def test_out_into_keys_and_back_gives_the_same_ids(kind: str, tmp_path: Path) -> None:
    backend = original(kind)
    tokenizer = load_tokenizer(files_of(backend, tmp_path / "hf"))
    keys, lines = vocabulary(tokenizer, tokenizer.size + 3)
    assert lines == []
    assert keys["tokenizer.ggml.model"] == ("gpt2" if kind in SPLITS else "llama")
    assert keys["tokenizer.ggml.pre"] == (kind if kind in SPLITS else "default")
    assert keys["tokenizer.ggml.tokens"][-1] == f"[PAD{tokenizer.size + 2}]"
    assert keys["tokenizer.ggml.token_type"][-3:] == [5, 5, 5]
    assert keys["tokenizer.ggml.add_bos_token"] == (kind in ("gemma", "llama", "llama-bpe"))
    (tmp_path / "back").mkdir()
    architecture = "gemma3" if kind == "gemma" else "llama"  # merges by ids, and by scores
    back = write_tokenizer(keys | {"general.architecture": architecture}, tmp_path / "back", "f.gguf")
    texts = prompts()
    expected = [each.ids for each in backend.encode_batch(texts)]
    assert back.encode_prompts(texts) == expected
    assert len({tuple(ids) for ids in expected}) > 1500
    assert [back.decode(ids) for ids in expected] == [backend.decode(ids) for ids in expected]
    assert (back.bos_id, back.eos_id, back.pad_id, back.unk_id, back.size) == (1, 2, 3, 0, tokenizer.size)


def test_another_split_gives_other_ids() -> None:
    """The control of the test above: what a file names decides."""
    ids = {kind: original("gpt-2").encode("a  12345").ids for kind in ("gpt-2",)}
    backend = original("gpt-2")
    backend.pre_tokenizer = original("smollm").pre_tokenizer
    assert backend.encode("a  12345").ids != ids["gpt-2"]


def test_a_split_without_a_name_says_so_and_keeps_the_ids(tmp_path: Path) -> None:
    backend = original("gpt-2")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer = load_tokenizer(files_of(backend, tmp_path / "hf"))
    keys, lines = vocabulary(tokenizer, tokenizer.size)
    assert "send it ids" in lines[0]
    assert [backend.token_to_id(token) for token in keys["tokenizer.ggml.tokens"]] == list(range(tokenizer.size))
    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "mug": 2}, unk_token="<unk>"))
    keys, lines = vocabulary(load_tokenizer(files_of(words, tmp_path / "words")), 8)
    assert (keys["tokenizer.ggml.model"], len(lines)) == ("llama", 1)


def test_types_stops_and_template(tmp_path: Path) -> None:
    backend = original("qwen2")
    backend.add_tokens(
        [tokenizers.AddedToken("<|turn|>", special=False), tokenizers.AddedToken("redmug", special=False)]
    )
    folder = files_of(backend, tmp_path / "hf", "{{ '<|turn|>' }}{{ '<|im_end|>' }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 4, 7]}')
    tokenizer = load_tokenizer(folder)
    keys, lines = vocabulary(tokenizer, tokenizer.size)
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert (types["<|turn|>"], types["redmug"], types["</s>"], types["m"]) == (3, 4, 3, 1)
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]) == (2, 4)
    assert "also stop on [7]" in lines[0]
    del keys["tokenizer.ggml.eot_token_id"]
    (tmp_path / "back").mkdir()
    back = write_tokenizer(keys, tmp_path / "back", "f.gguf")
    assert back.stop_ids == (2, 4)  # the template's end of a turn, which the engine stops on by itself
    assert (tmp_path / "back/chat_template.jinja").read_text() == "{{ '<|turn|>' }}{{ '<|im_end|>' }}"


def keys_of(kind: str, tmp_path: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(files_of(original(kind), tmp_path / "hf"))
    return vocabulary(tokenizer, tokenizer.size)[0] | {"general.architecture": "llama"}


def test_special_tokens_and_the_template_are_the_files_own(tmp_path: Path) -> None:
    """Neither the usual names of special tokens nor a family's name inside a text is replaced."""
    keys = keys_of("llama-bpe", tmp_path)
    names = ["<|nothing|>", "<|begin_of_text|>", "<|end_of_text|>", "<|reserved|>"]
    keys["tokenizer.ggml.tokens"][:4] = names
    keys["tokenizer.chat_template"] = "{{ bos_token }}{{ 'gemma3 of llama' }}<|im_end|>"
    (tmp_path / "back").mkdir()
    tokenizer = write_tokenizer(keys | {"general.architecture": "gemma3"}, tmp_path / "back", "f.gguf")
    config = json.loads((tmp_path / "back/tokenizer_config.json").read_text())
    assert [config[f"{role}_token"] for role in ("unk", "bos", "eos", "pad")] == names
    assert tokenizer.backend.id_to_token(tokenizer.encode_prompts(["a"])[0][0]) == "<|begin_of_text|>"
    assert (tmp_path / "back/chat_template.jinja").read_text() == keys["tokenizer.chat_template"]


def test_the_kind_that_is_named_decides_where_merges_and_scores_are_both_there(tmp_path: Path) -> None:
    keys = keys_of("llama", tmp_path) | {"tokenizer.ggml.merges": ["u n"]}
    (tmp_path / "a").mkdir()
    expected = original("llama").encode("the red mug", add_special_tokens=False).ids
    assert write_tokenizer(keys, tmp_path / "a", "f").encode("the red mug") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.eos_token_id": None}, "no key tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.merges": None}, "no key tokenizer.ggml.merges"),
        ({"tokenizer.ggml.tokens": None}, "no key tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.bos_token_id": 9999}, "bos token 9999"),
        ({"tokenizer.ggml.token_type": [1]}, "another number of types"),
        ({"tokenizer.ggml.merges": ["zq qz"]}, "merge 'zq qz'"),
        ({"tokenizer.ggml.pre": "default"}, "pre-tokenizer 'default'"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "no key tokenizer.ggml.bos"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    keys = {key: value for key, value in (keys_of("qwen2", tmp_path) | change).items() if value is not None}
    (tmp_path / "back").mkdir()
    with pytest.raises(DataError, match=message):
        write_tokenizer(keys, tmp_path / "back", "f.gguf")


def test_what_puts_a_space_before_a_text(tmp_path: Path) -> None:
    def prefix(kind: str, **change: Any) -> bool:
        description = json.loads(original(kind).to_str()) | change
        description["model"]["vocab"] |= {"always": len(description["model"]["vocab"])}  # no scheme, a token
        backend = tokenizers.Tokenizer.from_str(json.dumps(description))
        tokenizer = load_tokenizer(files_of(backend, tmp_path / f"hf{len(list(tmp_path.iterdir()))}"))
        return vocabulary(tokenizer, tokenizer.size)[0]["tokenizer.ggml.add_space_prefix"]

    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    schemes = ("never", "first", "always")
    found = [prefix("llama", pre_tokenizer=metaspace | {"prepend_scheme": scheme}) for scheme in schemes]
    assert found == [False, True, True]
    assert not prefix("gemma")
    assert prefix("gemma", normalizer={"type": "Prepend", "prepend": "\u2581"})


def test_ids_past_the_model_are_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(files_of(original("gpt-2"), tmp_path / "hf"))
    with pytest.raises(DataError, match="the model has only 10"):
        vocabulary(tokenizer, 10)


def test_a_control_token_without_a_row_is_left_out_and_named(tmp_path: Path) -> None:
    """Gemma's <image_soft_token> has an id past the rows of the text-only checkpoints."""
    backend = original("gemma")
    rows = backend.get_vocab_size()
    backend.add_special_tokens(["<image_soft_token>"])
    keys, lines = vocabulary(load_tokenizer(files_of(backend, tmp_path / "hf")), rows)
    assert lines == ["left out, since the model has no row for it: <image_soft_token>"]
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == rows
    assert "<image_soft_token>" not in keys["tokenizer.ggml.tokens"]


def test_tags_of_an_answers_parts_are_text_for_the_engine_too(tmp_path: Path) -> None:
    backend, tags = original("qwen2"), ("<think>", "</think>", "<turn>")
    backend.add_tokens([tokenizers.AddedToken(tag, special=False) for tag in tags])
    tokenizer = load_tokenizer(files_of(backend, tmp_path / "hf", "".join(tags)))
    keys, _ = vocabulary(tokenizer, tokenizer.size)
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert [types[tag] for tag in tags] == [4, 4, 3]


@pytest.mark.parametrize(("names", "carried"), [(("tool_use", "default"), True), (("tool_use",), False)])
def test_of_several_templates_the_default_one_is_carried(names: tuple[str, ...], carried: bool, tmp_path: Path) -> None:
    folder = files_of(original("qwen2"), tmp_path / "hf")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": name, "template": "{# " + name + " #}"} for name in names]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    keys, lines = vocabulary(tokenizer, tokenizer.size)
    assert keys.get("tokenizer.chat_template") == ("{# default #}" if carried else None)
    assert lines == ([] if carried else ["has chat templates, but none is named default: the file carries none"])


def test_pre_tokenizer_names() -> None:
    for kind in SPLITS:
        assert pre_tokenizer_name(json.loads(original(kind).to_str())) == kind
    description = json.loads(original("qwen2").to_str())
    assert pre_tokenizer_name(description | {"normalizer": {"type": "NFC"}}) == "qwen2"
    assert pre_tokenizer_name(description | {"normalizer": {"type": "Lowercase"}}) == ""


def test_the_patterns_are_the_published_ones() -> None:
    known = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping").GGUF_PRE_TOKENIZER_SPLITS
    for name in ("llama-bpe", "qwen2", "tekken"):
        assert SPLITS[name] == (known[name],)
    assert SPLITS["bloom"] == (" ?[^(\\s|.,!?…。，、।۔،)]+",)  # bigscience/bloom, tokenizer.json


def test_words_of_the_vocabulary_are_one_token_where_llama_3_has_them(tmp_path: Path) -> None:
    """No merge makes `zqj`; Llama 3 takes a word that is in its vocabulary whole."""
    keys = keys_of("llama-bpe", tmp_path)
    keys["tokenizer.ggml.tokens"].append("zqj")
    keys["tokenizer.ggml.token_type"].append(1)
    for name, whole in (("llama-bpe", True), ("qwen2", False)):
        (tmp_path / name).mkdir()
        tokenizer = write_tokenizer(keys | {"tokenizer.ggml.pre": name}, tmp_path / name, "f.gguf")
        assert (tokenizer.encode("zqj") == [tokenizer.size - 1]) == whole
