"""Published e-commerce benchmarks as folders of held-out tasks: ECInstruct, ChineseEcomQA, Shopping MMLU.

`task_folders` reads a benchmark's files in upstream's form (`fetch benchmarks`, or the user's own copy) and writes
the released task layout with one more field in `meta-info.json`, `metric`, which determines how answers are parsed and
scored (`evaluation.benchmark_scores`). Prompts are the published ones, without EcomGPT's head. No row is trained on.

  ecinstruct       four tests of ECInstruct (arXiv 2402.08831) as in UniCommerce-1.5, in eCeLLM's prompt template.
  chinese_ecom_qa  ChineseEcomQA (arXiv 2502.20196), system prompt and prompt; the first line of a gold answer is the
                   answer, what follows in 96 of them is the author model's reasoning. RLC and CC hold two tasks each.
  shopping_mmlu    Shopping MMLU (arXiv 2410.20745), all questions of `data/skills/*.json`.
"""

import collections
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.files import find_data, read_json, read_json_lines
from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.sources import checksums
from ecomgpt_jax.instruct.task_folder import BENCHMARKS, TaskFolder, TaskRow, write_task

TRUTH = "truth"  # key in a row's labels: further input of the scorer besides the gold answer
_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n"
    "### Input:\n{{sentences}}\n\n### Response:\n"
)
_ECINSTRUCT = {  # file: (name, metric, labels)
    "Product_Matching": ("product_matching", "yes_no", ("yes", "no")),
    "Product_Substitute_Identification": ("product_substitute", "yes_no", ("yes", "no")),
    "Multiclass_Product_Classification": ("product_classification", "letter", ("A", "B", "C", "D")),
    "Product_Relation_Prediction": ("product_relation", "letter", ("A", "B", "C")),
}
_SHOPPING_HEAD = (
    "You are a helpful online shopping assistant. Please answer the following question about online shopping and "
    "follow the given instructions.\n\n"
)
Made = tuple[TaskFolder, list[TaskRow]]


def read_ecinstruct(folder: Path) -> Iterator[Made]:
    """Yields the four tasks of ECInstruct; the gold answer of a letter task is its letter.

    Raises:
      EcomError: a file is missing or not of the published form.
    """
    for file, (name, metric, labels) in _ECINSTRUCT.items():
        path = folder / f"{file}_test.json"
        found = read_json(path)
        rows, instructions = [], set()
        for number, value in enumerate(found if isinstance(found, list) else []):
            if not isinstance(value, dict) or not all(
                isinstance(value.get(k), str) for k in ("instruction", "input", "output")
            ):
                raise DataError(f"{path}: item {number} has no instruction, input and output")
            gold = value["output"].strip()
            gold = gold[:1] if metric == "letter" else gold.lower()
            if gold not in labels:
                raise DataError(
                    f"{path}: item {number}: output {value['output'][:60]!r} is none of {', '.join(labels)}"
                )
            instructions.add(value["instruction"])
            rows.append(TaskRow(value["input"], {"default": (gold,)}))
        if len(instructions) != 1:
            raise DataError(f"{path}: {len(instructions)} instructions instead of one")
        template = _ALPACA.format(instructions.pop())
        yield _task(f"EN-ECInstruct-CLS-{name}", f"ecinstruct:{metric}", labels, template), rows


def read_chinese_ecom_qa(folder: Path) -> Iterator[Made]:
    """Yields the tasks of ChineseEcomQA: its ten concepts, RLC and CC in two parts each.

    Raises:
      EcomError: the file is missing or not of the published form.
    """
    path = folder / "ChineseEcomQA.jsonl"
    groups: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for line, value in read_json_lines(path):
        if not all(isinstance(value.get(key), str) for key in ("system_prompt", "prompt", "gt", "task")):
            raise DataError(f"{path}:{line}: has no system_prompt, prompt, gt and task")
        gold, name = value["gt"].strip().split("\n")[0].strip(), value["task"]
        if name == "RLC" and not value["system_prompt"]:
            name = "RLC_dimension"
        if name == "CC" and gold in ("是", "否"):
            name = "CC_judgement"
        groups[name].append((value["system_prompt"] + value["prompt"], gold))
    for name, found in sorted(groups.items()):
        golds = [gold for _, gold in found]
        family, metric, separator, labels = "CLS", "label", "\n", ()
        if name in ("BC", "IDC"):
            family, metric = "Generate", "text"
        elif name == "AC":
            family = "Extract"
        elif name == "IC":
            metric, separator = "labels", ","
        elif name == "PC":
            metric, labels = "letter", ("A", "B", "C", "D")
        elif name in ("RLC", "RVC", "ITC", "CC_judgement"):
            labels = tuple(sorted(set(golds)))
        template, texts = shared_template([prompt for prompt, _ in found])
        task = _task(f"ZH-ChineseEcomQA-{family}-{name}", f"chinese_ecom_qa:{metric}", labels, template, separator)
        answers = [gold.split(separator) if separator == "," else [gold] for gold in golds]
        yield task, [_row(task, text, answer) for text, answer in zip(texts, answers, strict=True)]


def read_shopping_mmlu(folder: Path) -> Iterator[Made]:
    """Yields the tasks of Shopping MMLU from `data.zip`: the JSON lines of every `skills/*.json`.

    Raises:
      EcomError: the archive is missing or not of the published form.
    """
    path = folder / "data.zip"
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; run `python -m ecomgpt_jax.fetch benchmarks shopping_mmlu`")
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for place, text in _skill_lines(path):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"{place}: no JSON ({error})") from error
        fields = ("input_field", "output_field", "task_name", "metric")
        if not isinstance(value, dict) or any(value.get(key) in (None, "") for key in fields):
            raise DataError(f"{place}: has no {', '.join(fields)}")
        groups[str(value["task_name"])].append(value)
    for name, found in sorted(groups.items()):
        metrics = {str(value["metric"]) for value in found}
        if len(metrics) != 1:
            raise DataError(f"{path}: task {name} has metrics {', '.join(sorted(metrics))}")
        yield _shopping_task(name, metrics.pop(), found)


def _skill_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                each for each in archive.infolist() if re.search(r"(^|/)skills/[^/.][^/]*\.json$", each.filename)
            ]
            if not members:
                raise DataError(f"{path}: no skills/*.json in the archive")
            for member in sorted(members, key=lambda each: each.filename):
                if member.file_size > 2**28:
                    raise DataError(f"{path}: {member.filename} unpacks to {member.file_size} bytes; not read")
                with archive.open(member) as stream:
                    for number, line in enumerate(stream, 1):
                        if line.strip():
                            yield f"{path}!{member.filename}:{number}", line.decode("utf-8")
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path}: {error}; fetch it again") from error


def _shopping_task(name: str, metric: str, found: list[dict[str, Any]]) -> Made:
    title = re.sub(r"\W+", "_", name).strip("_") or "task"
    truths = [value["output_field"] for value in found]
    golds: list[list[str]] = []
    labels: tuple[str, ...] = ()
    separator = ","
    family = "CLS"
    if metric == "accuracy":
        golds = [[str(truth)] for truth in truths]
        labels = tuple(sorted({gold for (gold,) in golds} | {"0", "1", "2", "3"}))
    elif metric in ("hit rate@3", "ndcg", "micro f1"):
        if not all(isinstance(truth, list) and truth for truth in truths):
            raise DataError(f"shopping_mmlu: task {name}: {metric} needs a list in output_field")
        if metric == "ndcg":
            orders = (sorted(range(len(truth)), key=lambda place: (-truth[place], place)) for truth in truths)
            golds = [[str(place + 1) for place in order] for order in orders]
        else:
            golds = [[str(item).lower() for item in truth] for truth in truths]
    else:
        family, separator = "Generate", "\n"
        golds = [[str(item) for item in (truth if isinstance(truth, list) else [truth])] for truth in truths]
    template, texts = shared_template([_SHOPPING_HEAD + value["input_field"] for value in found])
    task = _task(f"EN-ShoppingMMLU-{family}-{title}", f"shopping_mmlu:{metric}", labels, template, separator)
    rows = []
    for text, gold, truth in zip(texts, golds, truths, strict=True):
        row = _row(task, text, gold)
        if family == "CLS":
            row.labels[TRUTH] = tuple(map(str, truth if isinstance(truth, list) else [truth]))
        rows.append(row)
    return task, rows


def shared_template(prompts: list[str]) -> tuple[str, list[str]]:
    """Splits prompts into a template (the text that all share at both ends) and the rest of each.

    The beginning is shared up to a colon or line break, the end from a line break on.
    """
    prefix = os.path.commonprefix(prompts)  # noqa: RUF071 (characters are meant)
    prefix = prefix[: max(prefix.rfind(mark) for mark in "：:\n") + 1]
    rests = [prompt[len(prefix) :] for prompt in prompts]
    suffix = os.path.commonprefix([rest[::-1] for rest in rests])[::-1]  # noqa: RUF071
    suffix = suffix[suffix.find("\n") :] if "\n" in suffix else ""
    texts = [rest[: len(rest) - len(suffix)] for rest in rests]
    if not all(text.strip() for text in texts):
        return "{sentences}", prompts
    return f"{prefix}{{sentences}}{suffix}", texts


def _task(
    name: str, metric: str, labels: Iterable[str], template: str = "{sentences}", separator: str = ","
) -> TaskFolder:
    return TaskFolder(
        name, "", template, {"default": tuple(labels)} if labels else {}, "default", separator, metric=metric
    )


def _row(task: TaskFolder, text: str, gold: list[str]) -> TaskRow:
    if task.family == "CLS":
        return TaskRow(text, {"default": tuple(gold)})
    return TaskRow(text, spans=tuple(Span(0, 0, "", term) for term in gold))


_READERS: dict[str, Callable[[Path], Iterator[Made]]] = dict(
    zip(BENCHMARKS, (read_ecinstruct, read_chinese_ecom_qa, read_shopping_mmlu), strict=True)
)


def find_benchmark(name: str) -> Path | None:
    """Returns the folder of a benchmark's files, below $ECOMGPT_BENCHMARKS or where `fetch` puts it; None if absent.

    Raises:
      ConfigError: there is no benchmark of that name.
      MissingInputError: the variable does not name a folder.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"--benchmark {name}: is none of official, {', '.join(BENCHMARKS)}, all")
    root = find_data("", "ECOMGPT_BENCHMARKS", "benchmarks")
    return root / name if root and (root / name).is_dir() else None


def task_folders(name: str, cache: str | os.PathLike[str]) -> Path:
    """Returns a folder of the benchmark's tasks in the released layout, written now or found from an earlier call.

    Args:
      name: one of `BENCHMARKS`.
      cache: where the folder is created, under a name that depends on the files and on this code.

    Raises:
      MissingInputError: the benchmark's files do not exist.
      DataError: they are not of the published form, or not the pinned ones.
    """
    folder = find_benchmark(name)
    if not folder:
        raise MissingInputError(
            f"benchmark {name}: not found; run `python -m ecomgpt_jax.fetch benchmarks {name}`, or set "
            f"ECOMGPT_BENCHMARKS to a folder that holds {name}/"
        )
    pinned = checksums.ALL.get(f"benchmarks/{name}", {})
    for file, digest in pinned.items():
        if not (folder / file).is_file():
            raise MissingInputError(f"{folder / file}: missing; it is a part of the benchmark {name}")
        if (found := checksums.file_sha256(folder / file)) != digest:
            raise DataError(f"{folder / file}: sha256 {found}, expected {digest}; take the pinned file")
    files = [checksums.file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()]
    key = hashlib.sha256("".join([*files, checksums.file_sha256(Path(__file__))]).encode()).hexdigest()[:16]
    target = Path(cache).expanduser() / "benchmarks" / f"{name}-{key}"
    if not (target / "complete").is_file():
        for task, rows in _READERS[name](folder):
            write_task(target, task, rows)
        (target / "complete").touch()
    return target
