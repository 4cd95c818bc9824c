"""Makes tests/model/golden/*.npz: outputs of HF's torch networks that this project's must equal.

Run it after a case changes:
`python scripts/make_hf_golden.py [CASE ...]` (needs the `torch` extra). Weights and batches come from a seed, so only a
sample of the outputs is stored.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests" / "model"
sys.path.insert(0, str(TESTS))

import hf_cases  # noqa: E402

from ecomgpt_jax.model.hf_weights import save_hf  # noqa: E402


def main() -> None:
    """Writes one file per case."""
    for name in sys.argv[1:] or hf_cases.CASES:
        model = hf_cases.case_model(name)
        with tempfile.TemporaryDirectory() as folder:
            save_hf(hf_cases.random_params(model), model, f"{folder}/hf")
            logits, loss, gradients = hf_cases.torch_outputs(f"{folder}/hf", hf_cases.case_batch(name))
        stored = {"logits": logits[:, :: hf_cases.LOGIT_STEP], "loss": np.float32(loss)}
        for tensor, gradient in gradients.items():
            stored[f"gradient/{tensor}"] = gradient.ravel()[hf_cases.stored_entries(gradient.size)]
        path = TESTS / "golden" / f"{name}.npz"
        np.savez_compressed(path, **stored)
        print(f"{path}: {path.stat().st_size} bytes, loss {loss:.6f}, largest logit {np.abs(logits).max():.2f}")


if __name__ == "__main__":
    main()
