from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from ecomgpt_jax.convert import convert_gguf  # noqa: E402
from ecomgpt_jax.errors import DataError, MissingInputError  # noqa: E402
from ecomgpt_jax.model import gguf_read  # noqa: E402
from ecomgpt_jax.model.gguf_read import GgufFile, hf_config, hf_tensors  # noqa: E402
from tests.model.gguf_files import (  # noqa: E402
    CONFIGS,
    VOCABULARY,
    family_file,
    gguf_tensors,
    keys_of,
    random_model,
    write_gguf,
)

IDS = np.arange(20)[None] * 5 % 97 + 4  # longer than Gemma's window of 8


def logits(model: transformers.PreTrainedModel) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


def loaded(directory: Path, **how: object) -> transformers.PreTrainedModel:
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, **how
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_of_each_family_is_the_model_it_was_made_from(name: str, tmp_path: Path) -> None:
    source = random_model(name)
    path = family_file(tmp_path / "m.gguf", name)
    convert_gguf(str(path), str(tmp_path / "hf"), "float32")
    ours = loaded(tmp_path / "hf")
    for key, weight in source.state_dict().items():
        found = ours.state_dict()[key]
        if name == "gemma3" and key.endswith("norm.weight"):  # 1 + w was rounded to float32
            torch.testing.assert_close(found, (weight + 1) - 1, rtol=0, atol=0)
        else:
            assert torch.equal(found, weight), key
    np.testing.assert_allclose(logits(ours), logits(source), atol=2e-5)
    if name not in ("llama3", "qwen3"):  # HF's reader drops the scaling, and takes heads of 128 for Qwen 3
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file="m.gguf", dtype=torch.float32
        ).state_dict()
        assert all(torch.equal(weight, theirs[key]) for key, weight in ours.state_dict().items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.encode("mug!") == [100, 4]
    assert (ours.config.eos_token_id, ours.generation_config.eos_token_id) == (2, 2)


def test_rows_in_another_order_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = family_file(tmp_path / "m.gguf", "llama")
    monkeypatch.setattr(gguf_read.families, "from_gguf", lambda family, shape, name, array: array)
    convert_gguf(str(path), str(tmp_path / "hf"), "float32")
    assert not np.allclose(logits(loaded(tmp_path / "hf")), logits(random_model("llama")), atol=1e-2)


def random_blocks(kind: str, rows: int, columns: int) -> np.ndarray:
    """Rows of random bytes whose scales, each two bytes of a float16, are small numbers."""
    random = np.random.RandomState(0)
    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = random.randint(0, 256, (rows, columns // size, width)).astype(np.uint8)
    scales = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0, 2) if kind in ("Q4_1", "Q5_1") else (0,))
    for at in scales:
        blocks[..., at : at + 2] = random.rand(rows, columns // size, 1).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def test_every_type_is_decoded_as_transformers_decodes_it(tmp_path: Path) -> None:
    """One block-quantised tensor of each type in one Llama, rows of two blocks or more."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 512}
    config = transformers.LlamaConfig(
        **sizes, head_dim=128, intermediate_size=512, vocab_size=128, tie_word_embeddings=False
    )
    names = {
        "blk.0.attn_q": "Q4_0", "blk.0.attn_k": "Q4_1", "blk.0.attn_v": "Q5_0", "blk.0.attn_output": "Q5_1",
        "blk.0.ffn_gate": "Q8_0", "blk.0.ffn_up": "Q4_K", "blk.0.ffn_down": "Q5_K", "token_embd": "Q6_K",
        "output": "F16", "blk.1.attn_q": "BF16", "blk.1.ffn_down": "Q6_K",
    }  # fmt: skip
    assert set(names.values()) | {"F32"} == set(gguf_read.TYPES)
    tensors = {}
    model = transformers.LlamaForCausalLM(config)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for key, weight in model.state_dict().items():
        name = table.get_name(key.removesuffix(".weight"))
        kind = names.get(name, "F32")
        plain = kind in ("F32", "F16", "BF16")
        array = weight.numpy() if plain else random_blocks(kind, *weight.shape)
        tensors[f"{name}.weight"] = (array, kind)
    keys = keys_of("llama") | {
        "embedding_length": 512, "feed_forward_length": 512, "attention.head_count": 4, "attention.head_count_kv": 4,
        "attention.key_length": 128, "attention.value_length": 128, "rope.dimension_count": 128,
    }  # fmt: skip
    write_gguf(tmp_path / "m.gguf", "llama", tensors, keys)
    convert_gguf(str(tmp_path / "m.gguf"), str(tmp_path / "hf"), "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = loaded(tmp_path / "hf").state_dict()
    for key, weight in theirs.state_dict().items():
        assert weight.count_nonzero() > 0.9 * weight.numel(), key
        assert torch.equal(ours[key], weight), key
    convert_gguf(str(tmp_path / "m.gguf"), str(tmp_path / "bf16"), "bfloat16")
    narrow = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bf16").state_dict()
    assert all(torch.equal(narrow[key], weight.to(torch.bfloat16)) for key, weight in ours.items())


def by_the_format(kind: str, block: np.ndarray) -> np.ndarray:
    """The values of one block of bytes, as ggml-common.h and ggml-quants.c lay them out."""
    d, m = (float(block[at : at + 2].view(np.float16)[0]) for at in (0, 2))
    nibbles = np.concatenate([block[-16:] & 15, block[-16:] >> 4]).astype(int)  # byte j: elements j and j + 16
    if kind == "Q8_0":
        return d * block[2:].view(np.int8)
    if kind in ("Q5_0", "Q5_1"):
        nibbles += 16 * np.unpackbits(block[-20:-16], bitorder="little")
    if kind in ("Q4_0", "Q5_0", "Q4_1", "Q5_1"):
        return d * nibbles + m if kind[-1] == "1" else d * (nibbles - (8 if kind == "Q4_0" else 16))
    if kind == "Q6_K":
        scales, parts = block[192:208].view(np.int8), []
        for half in range(2):
            low, high = block[64 * half : 64 * half + 64], block[128 + 32 * half : 160 + 32 * half]
            for part in range(4):
                codes = low[32 * (part % 2) :][:32] >> 4 * (part // 2) & 15 | (high >> 2 * part & 3) << 4
                parts.append((codes.astype(int) - 32) * scales[8 * half + 2 * part :][:2].repeat(16))
        return float(block[208:].view(np.float16)[0]) * np.concatenate(parts)
    s, values = block[4:16].astype(int), []
    for group in range(8):
        scale, least = s[group] & 63, s[group + 4] & 63
        if group > 3:
            scale, least = s[group + 4] & 15 | s[group - 4] >> 6 << 4, s[group + 4] >> 4 | s[group] >> 6 << 4
        codes = (block[-128:].reshape(4, 32)[group // 2] >> 4 * (group % 2) & 15).astype(int)
        if kind == "Q5_K":
            codes += 16 * (block[16:48] >> group & 1)
        values.append(d * scale * codes - m * least)
    return np.concatenate(values)


def test_every_type_is_decoded_as_the_format_has_it(tmp_path: Path) -> None:
    kinds = [kind for kind in gguf_read.TYPES if kind[0] == "Q"]
    tensors = {kind: (random_blocks(kind, 3, 512), kind) for kind in kinds}
    scales = tensors["Q4_K"][0][0]
    scales[:4], scales[16:144] = np.ones(2, np.float16).view(np.uint8), 0x22
    scales[4:16] = list(bytes.fromhex("C1428304C546870891A2B3C4"))
    write_gguf(tmp_path / "m.gguf", "llama", tensors, {})
    file = GgufFile(tmp_path / "m.gguf")
    pairs = [(1, 5), (2, 6), (3, 7), (4, 8), (49, 57), (18, 26), (35, 43), (4, 12)]  # with each code 2 and d = m = 1
    assert file.read("Q4_K")[0, :256:32].tolist() == [2 * scale - least for scale, least in pairs]
    for kind, (rows, _) in tensors.items():
        width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
        expected = [by_the_format(kind, block) for block in rows.reshape(-1, width)]
        np.testing.assert_allclose(file.read(kind), np.reshape(expected, (3, 512)), rtol=1e-5, atol=1e-5, err_msg=kind)


def without(name: str) -> dict[str, tuple[np.ndarray, str]]:
    return {key: (array, "F32") for key, array in gguf_tensors("qwen3", random_model("qwen3")).items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "gpt2"}, "architecture 'gpt2' is none of bloom, llama, qwen2, qwen3, gemma3"),
        ({"missing": "context_length"}, "no key qwen3.context_length"),
        ({"missing": "attention.head_count"}, "no key qwen3.attention.head_count"),
        ({"drop": "blk.1.attn_k_norm.weight"}, "lacks 1 tensors: blk.1.attn_k_norm.weight"),
        ({"extra": "blk.0.ffn_gate_inp.weight"}, "has unknown 1 tensors: blk.0.ffn_gate_inp.weight"),
        ({"extra": "rope_freqs.weight"}, "rope_freqs.weight is not the scaling of a Llama 3 model"),
        ({"extra": "blk.0.attn_q.bias"}, "biases of attn_q; Qwen3ForCausalLM cannot hold that"),
        ({"keys": {"rope.scaling.type": "yarn"}}, "'yarn' is none of none, linear"),
        ({"keys": {"expert_count": 8}}, "expert_count is not 0"),
        ({"keys": {"attention.sliding_window": 32}}, "sliding_window is 32"),
        ({"keys": {"attention.value_length": 8}}, "values or rotated dimensions of another length"),
        ({"keys": {"attention.head_count_kv": 3}}, "has shape"),
        ({"vocabulary": {"split.count": 3}}, "one of 3 parts"),
        ({"vocabulary": {"general.type": "adapter"}}, "general.type is 'adapter'"),
        ({"vocabulary": {"tokenizer.ggml.model": "bert"}}, "'bert' is none of gpt2, llama"),
        ({"vocabulary": {"tokenizer.ggml.pre": "chatglm-bpe"}}, "pre-tokenizer 'chatglm-bpe' is none of"),
        ({"type": "IQ4_NL"}, "is IQ4_NL; only F32"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(change: dict, message: str, tmp_path: Path) -> None:
    tensors = without(change.get("drop", ""))
    if "extra" in change:
        tensors[change["extra"]] = (np.ones(96, np.float32), "F32")
    if "type" in change:
        tensors["blk.0.ffn_down.weight"] = (np.zeros((48, 36), np.uint8), "IQ4_NL")
    keys = {key: value for key, value in keys_of("qwen3").items() if key != change.get("missing")}
    write_gguf(
        tmp_path / "m.gguf", change.get("arch", "qwen3"), tensors, keys | change.get("keys", {}),
        VOCABULARY | change.get("vocabulary", {}),
    )  # fmt: skip
    with pytest.raises(DataError, match=message):
        convert_gguf(str(tmp_path / "m.gguf"), str(tmp_path / "hf"), "float32")
    assert not (tmp_path / "hf").exists()


def test_damaged_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = family_file(tmp_path / "m.gguf", "bloom").read_bytes()
    for size in (0, 3, 40, 3000, len(content) // 2):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(DataError, match="damaged or not a GGUF file"):
            GgufFile(tmp_path / "cut.gguf")
    with pytest.raises(MissingInputError, match="no such file"):
        GgufFile(tmp_path / "none.gguf")
    monkeypatch.setattr(gguf_read.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r"install ecomgpt_jax\[gguf\]"):
        GgufFile(tmp_path / "m.gguf")


def test_what_a_file_leaves_open_is_filled_in_or_said(tmp_path: Path) -> None:
    path = family_file(tmp_path / "m.gguf", "llama")
    file = GgufFile(path)
    file.values["general.name"] = "Mistral-7B-v0.3"
    config, lines = hf_config(file, {}, "float32")
    assert (config["model_type"], len(lines)) == ("llama", 1)
    assert "window" in lines[0]
    for key in ("attention.key_length", "attention.value_length", "rope.freq_base"):
        del file.values[f"llama.{key}"]
    config, _ = hf_config(file, {"eos_token_id": [2, 5]}, "bfloat16")
    assert (config["head_dim"], config["rope_theta"], config["eos_token_id"]) == (16, 10_000.0, [2, 5])
    del file.values["llama.rope.dimension_count"]
    assert hf_config(file, {}, "float32")[0]["head_dim"] == 8
    file.values |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert hf_config(file, {}, "float32")[0]["rope_parameters"]["factor"] == 4.0


def test_gemmas_layers_thetas_and_scale(tmp_path: Path) -> None:
    file = GgufFile(family_file(tmp_path / "m.gguf", "gemma3"))
    config, _ = hf_config(file, {}, "float32")
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert config["query_pre_attn_scalar"] == 16
    file.values |= {"gemma3.attention.sliding_window_pattern": 2, "gemma3.rope.freq_base_swa": 5e3}
    file.values |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    config, _ = hf_config(file, {}, "float32")
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 3
    assert config["rope_parameters"]["full_attention"] == {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    assert config["rope_parameters"]["sliding_attention"] == {"rope_type": "default", "rope_theta": 5e3}
    del file.values["gemma3.attention.sliding_window"]
    with pytest.raises(DataError, match="sliding_window is 0"):
        hf_config(file, {}, "float32")


def test_blooms_head_is_its_embedding(tmp_path: Path) -> None:
    tensors = {key: (array, "F32") for key, array in gguf_tensors("bloom", random_model("bloom")).items()}
    for head, fine in ((tensors["token_embd.weight"], True), ((tensors["token_embd.weight"][0] + 1, "F32"), False)):
        path = write_gguf(tmp_path / "m.gguf", "bloom", tensors | {"output.weight": head}, keys_of("bloom"))
        file = GgufFile(path)
        config, _ = hf_config(file, {}, "float32")
        if fine:
            assert "lm_head.weight" not in {tensor.name for tensor in hf_tensors(file, config)[0]}
        else:
            with pytest.raises(DataError, match="weight differs from the embedding"):
                hf_tensors(file, config)
    narrow = (tensors["token_embd.weight"][0], "BF16")
    file = GgufFile(write_gguf(tmp_path / "m.gguf", "bloom", tensors | {"output.weight": narrow}, keys_of("bloom")))
    assert "left out" in hf_tensors(file, hf_config(file, {}, "float32")[0])[1][0]
