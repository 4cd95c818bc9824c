"""The forms of answers to the rows of a task, for constrained decoding."""

from collections.abc import Sequence

from ecomgpt_jax.data.token_bytes import lead, token_bytes
from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.decoding.answers import Answer, Vocabulary
from ecomgpt_jax.decoding.forms import Form
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, answer_separator
from ecomgpt_jax.instruct.tasks.task import NOTHING


def answer_form(task: TaskFolder, row: TaskRow, shown: Sequence[str], before: str = "") -> Form | None:
    """Returns the form of the answers to a row; None for a Generate task, whose answers are free.

    CLS: candidates, each at most once. Extract, Condition_Extract: spans of one line of the input. NER: a line "Type:
    spans" or "Type: None" per type of the task.

    Args:
      task: the task.
      row: the row.
      shown: the candidates of the row's prompt as they appear in answers: labels or letters.
      before: prefix that the tokenizer adds to a text.

    Raises:
      DataError: there are no candidates, or blank ones, or the input has no spans.
    """
    separator = answer_separator(task)
    if task.family == "Generate" or task.is_open:
        return None
    try:
        if task.family == "CLS":
            if not shown:
                raise DataError("it has no candidates, so its answers are open")
            return Form(separator, labels=tuple(shown), heads=(before,))
        if task.family == "NER":
            heads = tuple(f"{before if not at else chr(10)}{kind}: " for at, kind in enumerate(task.labels))
            return Form(separator, source=row.sentences, heads=heads, nothing=NOTHING)
        return Form(separator, source=row.sentences, heads=(before,))
    except DataError as error:
        raise DataError(f"task {task.name}: {error}") from error


def constrain_answers(prompt_sets: Sequence[TaskPrompts], tokenizer: Tokenizer, limit: int) -> list[Answer | None]:
    """Returns for each row of each task its empty answer; None where answers are free.

    Args:
      prompt_sets: tasks and rows.
      tokenizer: the model's.
      limit: tokens per answer.

    Raises:
      DataError: a task has no form, or its shortest answer is longer than the limit, or no single token encodes one of
        its bytes.
    """
    before = lead(tokenizer)
    vocabulary = Vocabulary(token_bytes(tokenizer))
    single = {text[0] for text in vocabulary.texts if len(text) == 1}
    found: list[Answer | None] = []
    for prompt_set in prompt_sets:
        for number, (row, shown) in enumerate(zip(prompt_set.rows, prompt_set.names(), strict=True)):
            try:
                form = answer_form(prompt_set.task, row, shown, before)
            except DataError as error:
                raise DataError(f"{error} (row {number}); decode the task freely (--answers free)") from error
            if form and (least := len(tokenizer.encode(form.shortest()))) > limit:
                raise DataError(
                    f"task {prompt_set.task.name}: the shortest answer of its form has {least} tokens; the limit is "
                    f"{limit} (--max_new_tokens)"
                )
            if form and (missing := form.bytes_used() - single):
                raise DataError(
                    f"task {prompt_set.task.name}: the vocabulary has no token for the byte {min(missing):#04x}, so "
                    "answers cannot be constrained; decode them freely"
                )
            found.append(Answer(form, vocabulary, limit) if form else None)
    return found
