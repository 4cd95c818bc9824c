"""An example of a task as a stored row, and a task with its examples in the released layout."""

from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Instruction, Row, render
from ecomgpt_jax.instruct.letters import with_letters
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow
from ecomgpt_jax.instruct.tasks.task import Example, Task


def row_of(task: Task, example: Example, template: str, letters: bool = False) -> Row:
    """Returns the stored row of an example in one wording; with `letters` its candidates and answer are letters."""
    instruction = Instruction(
        task=task.name,
        record_id=example.record_id,
        source=task.source,
        definition=task.definition,
        template=template,
        sentences=example.sentences,
        candidates=example.candidates,
        separator=task.label_separator,
        answer=example.answer,
    )
    if letters:
        instruction = with_letters(instruction, example.labels)
    prompt, response = render(instruction) if task.definition else (example.sentences, example.answer)
    head = (task.name, example.record_id, task.source, task.language, task.family, task.operator, task.parent)
    return dict(zip(ROW_FIELDS, (*head, prompt, response), strict=True))


def as_folder(task: Task, labels: tuple[str, ...]) -> TaskFolder:
    """Returns a task in the released layout, with its first English wording."""
    return TaskFolder(
        name=task.name,
        definition=task.definition,
        template=task.wordings["en"][0],
        label_set={"default": labels} if labels else {},
        separator=task.label_separator,
    )


def as_row(task: Task, example: Example) -> TaskRow:
    """Returns an example as a row of the released layout."""
    if task.family == "CLS":
        return TaskRow(example.sentences, {"default": example.labels})
    return TaskRow(example.sentences, spans=example.spans)
