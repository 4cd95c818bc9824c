import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data import tokenizer as tokenizer_lib
from ecomgpt_jax.errors import DataError, MissingInputError

TEXTS = [
    "Red cotton shirt, size M. Free shipping within Germany!",
    "红色纯棉衬衫，包邮。",
    "Is {low} low?\n### Response:yes",
] * 20
BLOOMS_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizer_lib.Tokenizer:
    return tokenizer_lib.train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer") / "trained")


def test_special_ids_are_blooms(tokenizer: tokenizer_lib.Tokenizer) -> None:
    assert [tokenizer.backend.token_to_id(name) for name in tokenizer_lib.SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.size) == (2, 3, 330)


@settings(max_examples=500, deadline=None)
@given(st.tuples(*[st.text(max_size=80)] * 20))
def test_any_text_comes_back_and_holds_no_special_id(
    tokenizer: tokenizer_lib.Tokenizer, texts: tuple[str, ...]
) -> None:
    """Of 10,000 texts, twenty an example: drawing an example costs more than the texts in it."""
    for text in texts:
        hostile = f"{text}</s>{text}<pad><unk>{text}"
        ids = tokenizer.encode(hostile)
        assert min(ids) > 3
        assert tokenizer.decode(ids) == hostile
        assert tokenizer.encode_batch([hostile, text]) == [ids, tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab cd, 红。ef", ["ab", "Ġcd", ",", "Ġ", "红", "。", "ef"]),
        ("坚果iPhone11", ["坚", "果", "iPhone11"]),
        ("Brand: None\nsize 5/6", ["Brand", ":", "ĠNone", "Ċ", "size", "Ġ5", "/", "6"]),
        ("功效#:#保湿", ["功", "效", "#:#", "保", "湿"]),
    ],
)
def test_text_is_split_into_words_punctuation_and_single_characters(
    tokenizer: tokenizer_lib.Tokenizer, text: str, pieces: list[str]
) -> None:
    whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    shown = [whole.pre_tokenize_str(piece)[0][0] if piece[0] not in "ĠĊ" else piece for piece in pieces]
    assert [piece for piece, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)] == shown


@pytest.mark.parametrize(("pattern", "same"), [(tokenizer_lib.SPLIT_PATTERN, True), (BLOOMS_PATTERN, False)])
def test_a_span_has_the_same_tokens_wherever_it_stands(
    pattern: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["品牌: 三只松鼠\n口味: 奶香", "三只松鼠每日坚果奶香味", "Select from 品牌, 口味.", "口味"] * 40
    monkeypatch.setattr(tokenizer_lib, "SPLIT_PATTERN", pattern)
    trained = tokenizer_lib.train_tokenizer(texts, 330, tmp_path / "trained")

    def alike(span: str, text: str) -> bool:
        alone, ids = trained.encode(span), trained.encode(text)
        return any(ids[i : i + len(alone)] == alone for i in range(len(ids)))

    found = [alike(span, text) for span in ("三只松鼠", "奶香", "口味") for text in texts if span in text]
    assert all(found) == same


def test_decoding_leaves_specials_out(tokenizer: tokenizer_lib.Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("ok"), tokenizer.eos_id, tokenizer.pad_id]) == "ok"


def test_training_is_repeatable_and_done_once(tmp_path: Path) -> None:
    first = tokenizer_lib.train_tokenizer(TEXTS, 320, tmp_path / "a")
    again = tokenizer_lib.train_tokenizer(TEXTS, 320, tmp_path / "b")
    kept = tokenizer_lib.train_tokenizer(["other text"], 320, tmp_path / "a")
    other = tokenizer_lib.train_tokenizer(["other text " * 50], 300, tmp_path / "c")
    assert first.fingerprint == again.fingerprint == kept.fingerprint != other.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_copy_loads_alike(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "copy")
    again = tokenizer_lib.load_tokenizer(tmp_path / "copy")
    assert (again.fingerprint, again.token_ids) == (tokenizer.fingerprint, tokenizer.token_ids)
    again.save(tmp_path / "copy")  # onto itself
    assert tokenizer_lib.load_tokenizer(tmp_path / "copy").fingerprint == tokenizer.fingerprint


def test_without_an_end_of_sequence_token_it_is_refused(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    """A name like </s> is not enough; the tokenizer's files must name the token, or else the model's."""
    (tmp_path / "tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match="no end-of-sequence token; name it as eos_token"):
        tokenizer_lib.load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 330}')
    with pytest.raises(DataError, match="no end-of-sequence token"):  # an id that no token has
        tokenizer_lib.load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 3, "bos_token_id": 2}')
    bare = tokenizer_lib.load_tokenizer(tmp_path)
    assert bare.token_ids == {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3, "unk_token_id": None}
    assert min(bare.encode("a</s>b<pad>")) > 3
    bare.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (3, 2, None)
    (tmp_path / "config.json").write_text('{"eos_token_id": 3, "pad_token_id": 4}')
    padded = tokenizer_lib.load_tokenizer(tmp_path)  # with "!", which is a word as well
    padded.save(tmp_path / "padded")
    for each in (padded, tokenizer_lib.load_tokenizer(tmp_path / "padded")):
        assert (each.pad_id, each.encode("!"), each.decode([4])) == (4, [4], "!")
    (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(DataError, match="eos_token_id is '</s>'; it must be an id, or a list of ids"):
        tokenizer_lib.load_tokenizer(tmp_path)


def test_bad_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"tokenizer\.json"):
        tokenizer_lib.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(DataError, match="not a readable tokenizer"):
        tokenizer_lib.load_tokenizer(tmp_path)


def test_ids_past_the_embedding_are_refused(tokenizer: tokenizer_lib.Tokenizer) -> None:
    tokenizer_lib.check_vocabulary(tokenizer, 330)
    with pytest.raises(DataError, match="ids go up to 329, the model has only 320"):
        tokenizer_lib.check_vocabulary(tokenizer, 320)


def test_the_tokenizer_of_a_run_is_the_named_one_or_trained_once(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path
) -> None:
    data = DataConfig(cache_dir=str(tmp_path), tokenizer_vocab=300)
    rows = [{"prompt": text, "response": "ok"} for text in TEXTS]
    named = tokenizer_lib.find_tokenizer(tokenizer.directory, [], "f", data)
    assert named.fingerprint == tokenizer.fingerprint
    trained = tokenizer_lib.find_tokenizer("", rows, "f", data)
    assert (trained.size, trained.directory.parent) == (300, tmp_path)
    assert tokenizer_lib.find_tokenizer("", [], "f", data).fingerprint == trained.fingerprint
    assert tokenizer_lib.find_tokenizer("", rows, "g", data).directory != trained.directory


def test_texts_without_instructions_get_a_tokenizer_that_knows_instructions(tmp_path: Path) -> None:
    rows = [{"prompt": "", "response": text} for text in TEXTS]
    settings = {"cache_dir": str(tmp_path), "tokenizer_vocab": 2000}
    plain, control = (
        tokenizer_lib.find_tokenizer("", rows, "f", DataConfig(plain_text=flag, **settings)) for flag in (True, False)
    )
    instruction = "### Instruction:\nDecide whether the two titles name the same product.\n### Response:"
    assert 2 * len(plain.encode(instruction)) < len(control.encode(instruction))
    assert plain.directory != control.directory


TEXT = "A red mug, 350 ml. 红色马克杯，包邮。"


def edited(source: Path, target: Path, change: Callable[[dict], None], config: dict | None = None) -> Path:
    """Writes a directory with a changed tokenizer.json, and a config if its class says nothing."""
    state = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    change(state)
    target.mkdir(parents=True)
    (target / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    (target / "tokenizer_config.json").write_text(json.dumps(config or {"eos_token": "</s>", "pad_token": "<pad>"}))
    return target


@pytest.mark.parametrize("side", ["Left", "Right"])
@pytest.mark.parametrize("strategy", ["LongestFirst", "OnlyFirst", "OnlySecond"])
@pytest.mark.parametrize("length", ["BatchLongest", {"Fixed": 64}])
def test_truncation_and_padding_of_the_file_are_off(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path, side: str, strategy: str, length: object
) -> None:
    def change(state: dict) -> None:
        state["truncation"] = {"direction": side, "max_length": 5, "strategy": strategy, "stride": 1}
        state["padding"] = {
            "strategy": length, "direction": side, "pad_to_multiple_of": 8, "pad_id": 3, "pad_type_id": 0,
            "pad_token": "<pad>",
        }  # fmt: skip

    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", change))
    expected = tokenizer.encode(TEXT)
    assert len(expected) > 16
    assert found.encode_batch(["a", TEXT]) == [tokenizer.encode("a"), expected]
    assert found.encode(TEXT) == expected


def test_dropout_of_the_file_is_off(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    def change(state: dict) -> None:
        state["model"]["dropout"] = 0.9

    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", change))
    assert {tuple(found.encode(TEXTS[0])) for _ in range(5)} == {tuple(tokenizer.encode(TEXTS[0]))}


def with_template(before: list[str], after: list[str]) -> Callable[[dict], None]:
    """Returns a change that gives a post-processor which adds these tokens."""

    def change(state: dict) -> None:
        ids = {token["content"]: token["id"] for token in state["added_tokens"]}
        special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*before, *after)]
        single = [*special[: len(before)], {"Sequence": {"id": "A", "type_id": 0}}, *special[len(before) :]]
        state["post_processor"] = {
            "type": "TemplateProcessing", "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in (*before, *after)},
        }  # fmt: skip

    return change


@pytest.mark.parametrize(
    ("before", "after", "prefix"), [([], [], ()), (["<s>"], [], (1,)), (["<s>"], ["</s>"], (1,)), ([], ["</s>"], ())]
)
def test_texts_get_no_special_token_and_prompts_what_the_post_processor_puts_first(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path, before: list[str], after: list[str], prefix: tuple[int, ...]
) -> None:
    directory = edited(tokenizer.directory, tmp_path / "t", with_template(before, after))
    found, theirs = tokenizer_lib.load_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)
    ids = theirs.encode(TEXT, add_special_tokens=False)
    assert found.encode(TEXT) == ids
    assert found.encode_prompts([TEXT]) == [[*prefix, *ids]]
    assert theirs.encode(TEXT)[: len(ids) + len(prefix)] == [*prefix, *ids]
    prompt = found.encode_prompts([TEXT])[0]
    assert found.cut(prompt, 5) == [*prefix, *ids[len(prefix) - 5 :]]
    assert found.cut(prompt, len(prompt)) == prompt


def test_ids_of_the_post_processor_past_the_embedding_are_refused(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path
) -> None:
    def change(state: dict) -> None:
        with_template(["<s>"], [])(state)
        state["post_processor"]["special_tokens"]["<s>"]["ids"] = [50_000]

    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", change))
    with pytest.raises(DataError, match="ids go up to 50,000, the model has only 384"):
        tokenizer_lib.check_vocabulary(found, 384)


def test_an_id_of_more_than_31_bits_is_refused(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    def change(state: dict) -> None:
        state["model"]["vocab"]["far away"] = 2**32 - 1

    with pytest.raises(DataError, match=r"tokenizer\.json: its ids go up to 4,294,967,295"):
        tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", change))


def test_a_tokenizer_without_ids_is_exported_with_those_of_its_weights(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path
) -> None:
    """As trainers save it beside adapters; ids of its own count."""
    config = {"eos_token": "</s>", "tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"]}
    bare = edited(tokenizer.directory, tmp_path / "bare", lambda state: None, config)
    (tmp_path / "out").mkdir()
    declared = {"eos_token_id": [tokenizer.eos_id, 300], "do_sample": True}
    found = tokenizer_lib.export_tokenizer(bare, tmp_path / "out", declared)
    assert found.stop_ids == (tokenizer.eos_id, 300)
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == found.token_ids
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {
        "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<x>"],
    }  # fmt: skip
    (bare / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_id, 301]}))
    assert tokenizer_lib.export_tokenizer(bare, tmp_path / "out", declared).stop_ids == (tokenizer.eos_id, 301)


def test_an_export_asks_for_no_code_of_its_own(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    config = {"eos_token": "</s>", "tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", lambda state: None, config))
    found.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs.encode(TEXT, add_special_tokens=False) == found.encode(TEXT)


def test_special_ids_are_those_of_the_files(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    names = {"eos_token": "<unk>", "pad_token": "</s>", "bos_token": "<pad>"}
    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", lambda state: None, names))
    assert found.token_ids == {"bos_token_id": 3, "eos_token_id": 0, "pad_token_id": 2, "unk_token_id": None}
    assert (found.stop_ids, found.decode([0, 2, *found.encode("ok"), 3])) == ((0,), "ok")
    other = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "other", lambda state: None))
    assert other.encode(TEXT) == found.encode(TEXT)
    assert found.fingerprint != other.fingerprint, "the same ids with another end are other training data"


def test_several_ends_and_files_that_disagree(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = edited(tokenizer.directory, tmp_path / "t", lambda state: None)
    (directory / "config.json").write_text('{"eos_token_id": 1, "pad_token_id": 3}')
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 0, 2, 999]}')  # counts before config.json
    found = tokenizer_lib.load_tokenizer(directory)
    assert (found.eos_id, found.stop_ids, found.token_ids["eos_token_id"], caplog.text) == (2, (2, 0), [2, 0], "")
    found.save(tmp_path / "saved")
    assert tokenizer_lib.load_tokenizer(tmp_path / "saved").stop_ids == (2, 0)
    (directory / "generation_config.json").unlink()
    assert tokenizer_lib.load_tokenizer(directory).stop_ids == (2,)
    assert caplog.messages == [
        f"{directory}: eos_token_id is 1 in its config, but '</s>' is 2 in its tokenizer, which counts"
    ]


def test_holes_count_and_are_no_ids(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    def change(state: dict) -> None:
        state["model"]["vocab"] |= {"Ġshipping": 500, "Ġcotton": 700}

    found = tokenizer_lib.load_tokenizer(edited(tokenizer.directory, tmp_path / "t", change))
    left = {tokenizer.backend.token_to_id(token) for token in ("Ġshipping", "Ġcotton")}
    assert found.encode(" cotton shipping") == [700, 500]
    assert found.size == 701
    assert found.ids.tolist() == [*(index for index in range(330) if index not in left), 500, 700]
    tokenizer_lib.check_vocabulary(found, 701)
    with pytest.raises(DataError, match="ids go up to 700, the model has only 700"):
        tokenizer_lib.check_vocabulary(found, 700)


CONTROL = ("</s>", "<pad>", "<|turn|>", "<sep/>", "<|end|>", "<keep>")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def with_controls(flags: dict[str, bool]) -> Callable[[dict], None]:
    """Returns a change after which control tokens and a domain word have these flags."""

    def change(state: dict) -> None:
        for token in state["added_tokens"]:
            token.update(flags)
        for index, content in enumerate((*CONTROL[2:], "teapotty", "user"), start=330):
            special = flags["special"] and content not in ("teapotty", "user")
            state["added_tokens"].append({"id": index, "content": content, **flags, "special": special})

    return change


@pytest.mark.parametrize("number", range(2 ** len(FLAGS)))
def test_text_never_becomes_a_control_token_whatever_its_flags(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path, number: int
) -> None:
    """The oracle is the same file without the control tokens; words that were added stay one token."""
    config = {
        "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>",
        "additional_special_tokens": ["<keep>"], "sep_token": "<sep/>",
        "chat_template": "{% for m in messages %}<|turn|>user: {{ m.content }}<|end|>{% endfor %}",
    }  # fmt: skip
    flags = {name: bool(number >> place & 1) for place, name in enumerate(FLAGS)}
    directory = edited(tokenizer.directory, tmp_path / "t", with_controls(flags), config)
    found = tokenizer_lib.load_tokenizer(directory)
    state = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in ("teapotty", "user")]
    oracle = tokenizers.Tokenizer.from_str(json.dumps(state))
    words = {oracle.token_to_id(word): index for word, index in (("teapotty", 334), ("user", 335))}
    parts = [*CONTROL, "teapotty", "user", " ", "  ", "a", "s", "<", "mug", "红", "\n"]
    draw = random.Random(number)
    texts = ["".join(draw.choices(parts, k=draw.randrange(1, 13))) for _ in range(200)]
    expected = [
        [words.get(index, index) for index in encoding.ids]
        for encoding in oracle.encode_batch(texts, add_special_tokens=False)
    ]
    assert found.encode_batch(texts) == expected
    seen = set().union(*expected)
    assert {334, 335} <= seen
    assert not {0, 1, 2, 3, *range(330, 334)} & seen
    assert found.decode([*found.encode("mug"), 2, 3, 330, 331, 332, 333]) == "mug"


@pytest.mark.parametrize(
    "model",
    [
        {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
         "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["<pad>", -0.1], *([c, -3.0] for c in "</s>abunkpd ")]},
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "</s>": 1, "<pad>": 2, "a": 3, "b": 4}},
        {"type": "BPE", "unk_token": "<unk>", "ignore_merges": True, "merges": [],
         "vocab": {t: i for i, t in enumerate(("<unk>", "</s>", "<pad>", *"</s>abunkpd "))}},
        {"type": "BPE", "unk_token": "<unk>", "merges": ["< /", "</ s", "</s >"],
         "vocab": {t: i for i, t in enumerate(("<unk>", "</s>", "<pad>", "</", "</s", *"</s>abunkpd "))}},
    ],
    ids=["unigram", "words", "ignore_merges", "merges"],
)  # fmt: skip
def test_a_vocabulary_that_reads_control_tokens_out_of_text_does_not(model: dict, tmp_path: Path) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": name, **flags} for i, name in enumerate(("<unk>", "</s>", "<pad>"))]
    state = {"version": "1.0", "added_tokens": added, "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    raw = tokenizers.Tokenizer.from_str(json.dumps(state))
    raw.encode_special_tokens = True
    assert {1} & set(raw.encode("a </s> b").ids), "the library itself does"
    found, words = tokenizer_lib.load_tokenizer(tmp_path), model["type"] == "WordLevel"
    for text in ("a </s> b", "</s>", "<pad> </s> <unk>", "a <pad> a"):
        ids = found.encode(text)
        assert not {1, 2} & set(ids)
        if not words:  # which have no other way to say it than the unknown token
            assert 0 not in ids
            assert "".join(map(raw.id_to_token, ids)) == text.replace(" ", "")
    assert found.encode("a zzz b") == raw.encode("a zzz b").ids, "what is unknown stays unknown"
    assert 0 in found.encode("a zzz b")


def test_an_end_that_is_ordinary_text_is_refused(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' ends a sequence, but is also ordinary text; name another eos_token"):
        tokenizer_lib.load_tokenizer(
            edited(tokenizer.directory, tmp_path / "t", lambda state: None, {"eos_token": "a", "pad_token": "<pad>"})
        )


def test_every_file_goes_along_and_both_transformers_know_the_class(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path
) -> None:
    config = {
        "eos_token": "</s>", "backend": "tokenizers", "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<s>"], "model_max_length": 99,
    }  # fmt: skip
    directory = edited(tokenizer.directory, tmp_path / "t", lambda state: None, config)
    names = (
        "chat_template.jinja", "additional_chat_templates/tools.jinja", "vocab.json", "merges.txt", "tokenizer.model",
        "tekken.json", "special_tokens_map.json", "added_tokens.json",
    )  # fmt: skip
    (directory / "additional_chat_templates").mkdir()
    for name in names:
        (directory / name).write_text("{}" if name.endswith(".json") else "{{ messages[0].content }}!")
    (directory / "model.safetensors").write_text("no tokenizer")
    found = tokenizer_lib.load_tokenizer(directory)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/spiece.model").write_text("of another tokenizer")
    found.save(tmp_path / "saved")
    saved = {str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert saved == {*names, "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    written = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert written == {
        "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<s>"],
        "model_max_length": 99,
    }  # fmt: skip
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert set(theirs.chat_template) == {"default", "tools"}


@pytest.mark.parametrize("name", ["nano", "nano_base"])
def test_published_tokenizers_name_a_class_that_transformers_4_knows(name: str) -> None:
    folder = Path(__file__).parents[2] / "configs" / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config.keys() & {"backend", "extra_special_tokens"} == set()
    assert json.loads((folder / "config.json").read_text())["seq_length"] in (128, 256)
    found, theirs = tokenizer_lib.load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert found.token_ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "unk_token_id": 0}
    assert (theirs.eos_token_id, found.encode(TEXT)) == (2, theirs.encode(TEXT, add_special_tokens=False))
