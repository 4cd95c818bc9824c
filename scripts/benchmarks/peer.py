"""The peer's side: Hugging Face's torch models, and `peft`, in their usual form. Run by `work.serve`."""

import os
from collections.abc import Callable
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads must not use CPU time

import numpy as np
import torch
import work
from torch.nn import functional
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM, PreTrainedModel

Case = dict[str, Any]
Prepared = tuple[Callable[[], dict[str, Any]], dict[str, Any]]
SHAPE = {"vocab_size": "vocab_size", "hidden_size": "embed", "n_layer": "layers", "n_head": "heads"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _model(case: Case) -> PreTrainedModel:
    if "weights" in case:
        return AutoModelForCausalLM.from_pretrained(case["weights"], dtype=torch.float32).to(DEVICE)
    shape = {theirs: case["model"][ours] for theirs, ours in SHAPE.items()}
    config = BloomConfig(
        hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=3, **shape
    )
    with torch.device(DEVICE):
        return BloomForCausalLM(config).float()


def _labels(targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shifts targets to the positions that the model expects: it predicts label t + 1 at position t."""
    labels = np.full(targets.shape, -100, np.int64)
    labels[:, 1:] = np.where(mask, targets, -100)[:, :-1]
    return labels


def _batches(case: Case) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns (ids, attention mask, labels) of each batch: full rows, or instances padded to the batch's longest."""
    vocab = case["model"]["vocab_size"]
    if "instances" not in case:
        batch = work.full_batch(case["rows"], case["length"], vocab, case["share"])
        ids = batch["inputs"].astype(np.int64)
        return [(ids, np.ones_like(ids), _labels(batch["targets"], batch["loss_mask"]))]
    instances, batches = work.instances(case["instances"], vocab, longest=case["length"]), []
    for first in range(0, len(instances), case["peer_rows"]):
        group = instances[first : first + case["peer_rows"]]
        width = max(len(tokens) for tokens, _ in group)
        ids, mask = np.full((len(group), width), 3, np.int64), np.zeros((len(group), width), np.int64)
        labels = np.full((len(group), width), -100, np.int64)
        for row, (tokens, prompt) in enumerate(group):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, prompt : len(tokens)] = tokens[prompt:]
        batches.append((ids, mask, labels))
    return batches


def train(case: Case) -> Prepared:
    """Prepares forward, backward, clipping and a fused AdamW step per batch; on a GPU bfloat16 autocast, as Trainer."""
    model = _model(case)
    if rank := case.get("rank", 0):
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))
    trained = [weight for weight in model.train().parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    arrays = _batches(case) * case.get("steps", 1)
    batches = [[torch.as_tensor(array, device=DEVICE) for array in batch] for batch in arrays]

    def run() -> dict[str, Any]:
        losses = []
        for ids, mask, labels in batches:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return {"loss": float(losses[0])}

    facts = {"useful": int(sum(mask.sum() - len(mask) * ("instances" in case) for _, mask, _ in arrays))}
    return run, {**facts, "positions": sum(ids.size for ids, _, _ in arrays)}


def loss_head(case: Case) -> Prepared:
    """Prepares logits at every position, cross-entropy over the targets, and the gradients."""
    batch = work.full_batch(case["rows"], case["length"], case["model"]["vocab_size"], case["share"])
    random = np.random.default_rng(5)
    width, vocab = case["model"]["embed"], case["model"]["vocab_size"]
    hidden = torch.tensor(random.standard_normal((case["rows"], case["length"], width)), dtype=torch.float32)
    table = torch.tensor(0.02 * random.standard_normal((vocab, width)), dtype=torch.float32)
    hidden.requires_grad_(), table.requires_grad_()
    labels = torch.tensor(np.where(batch["loss_mask"], batch["targets"], -100), dtype=torch.int64)

    def once() -> torch.Tensor:
        hidden.grad = table.grad = None
        loss = functional.cross_entropy(functional.linear(hidden, table).flatten(0, 1), labels.flatten())
        loss.backward()
        return loss

    growth = work.peak_growth(once)
    outputs = 4 * (hidden.numel() + table.numel()) / 2**20
    return lambda: {"loss": once().item()}, {"temporary_mib": growth - outputs}


def generate(case: Case) -> Prepared:
    """Prepares `generate` in batches: equal prompts, or the tasks' prompts in task order, padded on the left."""
    model, vocab = _model(case).eval(), case["model"]["vocab_size"]
    ends: dict[str, Any] = {"eos_token_id": work.EOS, "pad_token_id": 3}
    if "task_rows" in case:
        prompts, answers = work.counting_prompts(case["task_rows"], vocab, case.get("shrink", 1))
        limit = max(answers) + 1
    else:
        prompts = work.full_batch(case["rows"], case["length"], vocab, 0)["inputs"].tolist()
        limit, ends = case["new"], {"eos_token_id": None, "pad_token_id": 3}

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        tokens = []
        for first in range(0, len(prompts), case["rows"]):
            group = prompts[first : first + case["rows"]]
            width = max(map(len, group))
            ids = torch.tensor([[3] * (width - len(prompt)) + prompt for prompt in group], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in group], device=DEVICE)
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit, **ends)
            for row in out[:, width:].tolist():
                tokens.append(row[: row.index(work.EOS)] if "task_rows" in case and work.EOS in row else row)
        return {"tokens": tokens}

    return run, {}


KINDS = {"train": train, "head": loss_head, "generate": generate}

if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    work.serve(lambda case: KINDS[case["kind"]](case))
