"""The tasks of the real sources: a base task from each annotation, and what the operators make of it.

Not every annotation becomes a task. Left out are labels that the text does not tell (the variant of an Alexa device,
a song's genre, a restaurant's cuisine, how helpful a review was), the rows that one source repeats from another (hotel
reviews of the shopping set, laptops of MEMD, restaurants of ASTE), and topic labels on restaurant reviews, which come
too near to the held-out topic task. Pools without labels are left to pseudo-labelling.
"""

from ecomgpt_jax.instruct.tasks import (
    real_aspects,
    real_entities,
    real_items,
    real_pairs,
    real_questions,
    real_texts,
)
from ecomgpt_jax.instruct.tasks.task import Task

_FAMILIES = (real_entities, real_aspects, real_pairs, real_items, real_texts, real_questions)


def tasks() -> list[Task]:
    """Returns every task of the real sources."""
    return [task for family in _FAMILIES for task in family.tasks()]
