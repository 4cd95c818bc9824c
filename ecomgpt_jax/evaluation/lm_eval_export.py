"""Exports tasks for lm-evaluation-harness: one YAML file per task, a group over them, and rendered rows.

The rows contain rendered prompts and gold answers, and `doc_to_text` and `doc_to_target` name their fields, so user
text is never part of a template and no Python file is needed. The harness scores `exact_match` of the whole answer, and
chrF for generated titles.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.files import write_json_lines, write_text

GROUP = "ecomgpt"
_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: gold
target_delimiter: ""
num_fewshot: 0
generation_kwargs:
  until: []  # the harness adds the end-of-sequence token of the model
  do_sample: false
  max_gen_toks: {tokens}
filter_list:
  - name: strip
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: {metric}
    aggregation: {aggregation}
    higher_is_better: true
metadata:
  version: 1.0
  source: {source}
"""


def export_tasks(prompt_sets: Sequence[TaskPrompts], directory: Path, grouped: Sequence[str]) -> Path:
    """Writes `<task>.yaml` and `data/<task>.jsonl` of each task, and `ecomgpt.yaml`.

    Args:
      prompt_sets: the tasks with their prompts.
      directory: created if needed. The YAML files contain its absolute path: export again after moving it.
      grouped: names of the tasks that the group `ecomgpt` averages.

    Returns:
      The path of the group's file.
    """
    directory = directory.absolute()
    for prompt_set in prompt_sets:
        name, data = prompt_set.task.name, directory / "data" / f"{prompt_set.task.name}.jsonl"
        golds = [gold.removeprefix(" ") for gold in prompt_set.responses()]  # like the filter for a model's answers
        rows = zip(prompt_set.prompts, golds, strict=True)
        write_json_lines(data, ({"index": i, "prompt": prompt, "gold": gold} for i, (prompt, gold) in enumerate(rows)))
        generates = prompt_set.task.family == "Generate"
        fields = {
            "task": f"{GROUP}_{name}",
            "data": str(data),
            "tokens": EvalConfig.max_new_tokens,
            "metric": "chrf" if generates else "exact_match",
            "aggregation": "chrf" if generates else "mean",
            "source": name,
        }
        quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in fields.items()}
        write_text(directory / f"{name}.yaml", _TASK.format(**quoted))
    lines = [f"group: {GROUP}", "task:", *(f"  - {json.dumps(f'{GROUP}_{name}')}" for name in grouped)]
    lines += [
        "aggregate_metric_list:",
        "  - metric: exact_match",
        "    weight_by_size: false",
        "    filter_list: [strip]",
    ]
    path = directory / f"{GROUP}.yaml"
    write_text(path, "\n".join([*lines, "metadata:", "  version: 1.0", ""]))
    return path
