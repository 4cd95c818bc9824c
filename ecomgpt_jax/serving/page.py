"""The page at `/`: task forms to try on your own text."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import choose
from ecomgpt_jax.instruct.instructions import render_prompt
from ecomgpt_jax.serving.protocol import RequestError

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@functools.cache
def forms() -> dict[str, dict[str, str]]:
    """Returns {name: {"definition", "template", "separator"}} of each task form, in each language of data and prompt.

    A name is, for example, "EN CLS fine_category, en": language of data, family, form, language of instruction.
    """
    found: dict[str, dict[str, str]] = {}
    for task in choose.declared_tasks(DataConfig()):
        for language, wordings in task.wordings.items():
            name = f"{task.language.upper()} {task.family} {task.form.name}, {language}"
            values = {"definition": task.definition, "template": wordings[0], "separator": task.label_separator}
            found.setdefault(name, values)
    return dict(sorted(found.items()))


def prompt(given: Mapping[str, Any]) -> str:
    """Returns the prompt of {"form": its name, "text": input, "candidates": labels, one per line, if it has any}.

    Raises:
      RequestError: a field is not text, or there is no such form.
    """
    for name in ("form", "text", "candidates"):
        if not isinstance(given.get(name, ""), str):
            raise RequestError(f"{name} must be a string", name)
    form = forms().get(given.get("form", ""))
    if form is None:
        raise RequestError("there is no such task form", "form")
    labels = [label.strip() for label in given.get("candidates", "").split("\n") if label.strip()]
    return render_prompt(form["definition"], form["template"], given.get("text", ""), form["separator"].join(labels))


def page(model: str) -> str:
    """Returns the page; it loads nothing from other addresses."""
    known = {name: "{label_set}" in form["template"] for name, form in forms().items()}
    data = json.dumps({"model": model, "forms": known}).replace("<", "\\u003c")
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("$DATA", data)
