"""Makes typed records from the words and patterns of `english` and `chinese`.

All records come from products: titles, search queries, offers, reviews, questions. Product `i` of a language is the
same for any number of products, and its records share the group `p<i>`. `EVALUATION_PRODUCTS` further products form the
evaluation catalogue: their groups begin with `EVALUATION`, and held-out tasks are made from them alone.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

from ecomgpt_jax.instruct.records import (
    AspectText,
    AspectTuple,
    AttributedItem,
    Dialogue,
    LabelledText,
    Question,
    Record,
    Span,
    SpannedText,
    TextPair,
)
from ecomgpt_jax.instruct.synthetic import chinese, english

WORDS = {"en": english, "zh": chinese}
EVALUATION = "evaluation/"
EVALUATION_PRODUCTS = 200
_SLOT = re.compile(r"<([a-z]+)(\d*)>")


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """One product of the catalogue; `attributes` are (name, value) in the catalogue's order."""

    group: str
    coarse: str
    fine: str
    noun: str
    brand: str
    attributes: tuple[tuple[str, str], ...]


def _words(text: str, separator: str = ",") -> list[str]:
    return text.split(separator)


def make_products(language: str, count: int, seed: int) -> list[Product]:
    """Returns `count` products and the evaluation catalogue after them."""
    words = WORDS[language]
    groups = [f"p{i}" for i in range(count)] + [f"{EVALUATION}{i}" for i in range(EVALUATION_PRODUCTS)]
    return [_product(words, group, random.Random(f"product {language} {seed} {group}")) for group in groups]


def _product(words: ModuleType, group: str, rng: random.Random) -> Product:
    coarse = rng.choice(list(words.CATEGORIES))
    fine = rng.choice(list(words.CATEGORIES[coarse]))
    pool = list(words.ATTRIBUTES[coarse].items())
    kept = sorted(rng.sample(range(len(pool)), rng.randint(3, min(5, len(pool)))))
    attributes = tuple((pool[i][0], rng.choice(_words(pool[i][1]))) for i in kept)
    noun = rng.choice(_words(words.CATEGORIES[coarse][fine]))
    return Product(group, coarse, fine, noun, rng.choice(_words(words.BRANDS)), attributes)


def fill_slots(pattern: str, values: Mapping[str, str], types: Mapping[str, str]) -> tuple[str, tuple[Span, ...]]:
    """Returns the pattern with its slots filled, and a span for each slot whose name without digits is in `types`."""
    text, spans, at = "", [], 0
    for match in _SLOT.finditer(pattern):
        text += pattern[at : match.start()]
        value = values[match[1] + match[2]]
        if match[1] in types:
            spans.append(Span(len(text), len(text) + len(value), types[match[1]], value))
        text += value
        at = match.end()
    return text + pattern[at:], tuple(spans)


def _title(words: ModuleType, product: Product, rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """Returns a title with brand, some attributes and the noun, and their spans."""
    some = rng.sample(product.attributes, rng.randint(2, min(4, len(product.attributes))))
    facts = [(value, name) for name, value in some]
    cut = rng.randint(1, len(facts))
    parts = [*facts[:cut], (product.noun, words.TYPES["product"]), *facts[cut:]]
    if rng.random() < 0.8:
        parts.insert(0, (product.brand, words.TYPES["brand"]))
    if rng.random() < 0.5:
        parts.append((rng.choice(_words(words.AUDIENCE)), ""))
    if rng.random() < 0.3:
        parts.append((rng.choice(_words(words.PRAISE)), ""))
    text, spans = "", []
    for part, kind in parts:
        text += words.BLANK if text else ""
        if kind:
            spans.append(Span(len(text), len(text) + len(part), kind, part))
        text += part
    return text, tuple(spans)


def _titles(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    for number in range(2):
        text, spans = _title(words, product, rng)
        yield SpannedText(
            id=f"{product.group}.{number}", group=product.group, language=language, text=text, spans=spans
        )


def _fashion_titles(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    if product.coarse in words.FASHION:
        yield from _titles(words, product, language, rng)


def _goods_titles(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    if product.coarse not in words.FASHION:
        yield from _titles(words, product, language, rng)


def _sentences(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    for number, pattern in enumerate(rng.sample(words.SENTENCES, 2)):
        components = rng.sample(_words(words.COMPONENTS[product.coarse]), 2)
        values = [value for _, value in product.attributes]
        slots = {
            "brand": product.brand,
            "product": product.noun,
            "component": components[0],
            "component2": components[1],
            "attribute": values[0],
            "attribute2": values[-1],
        }
        text, spans = fill_slots(pattern, slots, words.TYPES)
        yield SpannedText(
            id=f"{product.group}.{number}", group=product.group, language=language, text=text, spans=spans
        )


def _query(words: ModuleType, product: Product, rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    first, second = rng.sample(product.attributes, 2)
    slots = {
        "value": first[1],
        "value2": second[1],
        "brand": product.brand,
        "product": product.noun,
        "audience": rng.choice(_words(words.AUDIENCE)),
        "price": rng.choice(_words(words.PRICES)),
    }
    types = {**words.TYPES, "value": words.TYPES["attribute"]}
    return fill_slots(rng.choice(words.QUERIES), slots, types)


def _queries(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    text, spans = _query(words, product, rng)
    common = {"group": product.group, "language": language, "text": text}
    yield SpannedText(id=product.group, spans=spans, **common)
    labels = {"category": (product.fine,), "department": (product.coarse,)}
    yield LabelledText(id=f"{product.group}#label", labels=labels, **common)


def _items(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    values = words.LISTED.join(value for _, value in product.attributes)
    slots = {"brand": product.brand, "product": product.noun, "values": values}
    yield AttributedItem(
        id=product.group,
        group=product.group,
        language=language,
        title=_title(words, product, rng)[0],
        category=(product.coarse, product.fine),
        attributes=product.attributes,
        description=fill_slots(rng.choice(words.DESCRIPTIONS), slots, {})[0],
    )


def _offer(words: ModuleType, product: Product, rng: random.Random) -> str:
    facts = rng.sample(product.attributes, min(3, len(product.attributes)))
    return f"{_title(words, product, rng)[0]}, " + "; ".join(f"{name}: {value}" for name, value in facts)


def _offers(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    same = rng.random() < 0.5
    # The counterpart of a false pair occurs only in this pair, so it belongs to no other group.
    other = product if same else _product(words, product.group, rng)
    yield TextPair(
        id=product.group,
        group=product.group,
        language=language,
        left=_offer(words, product, rng),
        right=_offer(words, other, rng),
        label=words.PAIR_LABELS[0 if same else 1],
    )


def _searches(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    fits = rng.random() < 0.6
    other = product if fits else _product(words, product.group, rng)
    yield TextPair(
        id=product.group,
        group=product.group,
        language=language,
        left=_query(words, product, rng)[0],
        right=_title(words, other, rng)[0],
        label=words.SEARCH_LABELS[0 if fits else 1],
    )


def _reviews(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    for number in range(2):
        tuples, clauses, polarities = [], [], []
        for topic in rng.sample(list(words.TOPICS), rng.choice((1, 2, 2, 3))):
            aspects, praise, complaints = words.TOPICS[topic]
            positive = rng.random() < 0.55
            aspect = rng.choice(_words(aspects))
            opinion = rng.choice(_words(praise if positive else complaints))
            slots = {"aspect": aspect, "opinion": opinion}
            clauses.append(fill_slots(rng.choice(words.CLAUSES), slots, {})[0])
            polarities.append(words.POSITIVE if positive else words.NEGATIVE)
            tuples.append(AspectTuple(aspect, topic, opinion, polarities[-1]))
        text = rng.choice(words.OPENINGS) + clauses[0]
        for clause, before, now in zip(clauses[1:], polarities, polarities[1:], strict=False):
            text += (words.LISTED if before == now else words.BUT) + clause
        text += words.STOP.strip()
        yield AspectText(
            id=f"{product.group}.{number}",
            group=product.group,
            language=language,
            text=text,
            tuples=tuple(tuples),
            domain=product.coarse,
        )


def _questions(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    facts = rng.sample(list(words.FACTS), 4)
    asked, stated = facts[0], rng.sample(facts[:3], 3)
    answerable = rng.random() < 0.8
    context, spans = "", []
    for fact in stated if answerable else facts[1:]:
        statements, _, values = words.FACTS[fact]
        sentence, found = fill_slots(
            rng.choice(_words(statements, "|")), {"value": rng.choice(_words(values))}, {"value": fact}
        )
        sentence = sentence[0].upper() + sentence[1:] if sentence[0] != found[0].term[0] else sentence
        if fact == asked:
            spans = [Span(span.start + len(context), span.end + len(context), fact, span.term) for span in found]
        context += sentence + words.STOP
    yield Question(
        id=product.group,
        group=product.group,
        language=language,
        question=rng.choice(_words(words.FACTS[asked][1], "|")),
        context=context.strip(),
        answers=tuple(span.term for span in spans),
        spans=tuple(spans),
    )


def _request(words: ModuleType, product: Product, rng: random.Random) -> tuple[str, str, str, str, tuple[Span, ...]]:
    """Returns (group of intents, intent, reply, message, spans of the message)."""
    topic = rng.choice(list(words.INTENTS))
    intent = rng.choice(list(words.INTENTS[topic]))
    messages, replies = words.INTENTS[topic][intent]
    slots = {
        "order": f"{rng.choice('ABCDEFGH')}{rng.randint(1000, 9999)}",
        "item": product.noun,
        "date": rng.choice(_words(words.DATES)),
        "place": rng.choice(_words(words.CITIES)),
    }
    pattern = rng.choice(_words(words.GREETING, "|")) + rng.choice(_words(messages, "|"))
    text, spans = fill_slots(pattern, slots, words.TYPES)
    return topic, intent, rng.choice(_words(replies, "|")), text, spans


def _messages(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    topic, intent, _, text, spans = _request(words, product, rng)
    common = {"group": product.group, "language": language, "text": text}
    yield LabelledText(id=product.group, labels={"intent": (intent,), "topic": (topic,)}, **common)
    yield SpannedText(id=f"{product.group}#slots", spans=spans, **common)


def _dialogues(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    _, intent, reply, text, _ = _request(words, product, rng)
    customer, agent = words.SPEAKERS
    thanks, farewell = (rng.choice(_words(part, "|")) for part in words.THANKS)
    yield Dialogue(
        id=product.group,
        group=product.group,
        language=language,
        turns=((customer, text), (agent, reply), (customer, thanks), (agent, farewell)),
        labels={"intent": (intent,)},
        turn_labels=words.TURN_LABELS,
    )


def _addresses(words: ModuleType, product: Product, language: str, rng: random.Random) -> Iterator[Record]:
    chinese_style = language == "zh"
    slots = {
        "number": f"{rng.randint(1, 300)}" + ("号" if chinese_style else ""),
        "street": rng.choice(_words(words.STREETS)),
        "city": rng.choice(_words(words.CITIES)),
        "state": rng.choice(_words(words.STATES)),
        "zip": f"{rng.randint(10000, 99999)}",
        "flat": f"{rng.randint(1, 30)}0{rng.randint(1, 6)}室"
        if chinese_style
        else f"{rng.randint(1, 30)}{rng.choice('ABC')}",
    }
    if chinese_style:
        slots |= {"district": rng.choice(_words(words.DISTRICTS)), "estate": rng.choice(_words(words.ESTATES))}
    text, spans = fill_slots(rng.choice(words.ADDRESSES), slots, words.TYPES)
    yield SpannedText(id=product.group, group=product.group, language=language, text=text, spans=spans)


Part = Callable[[ModuleType, Product, str, random.Random], Iterator[Record]]
PARTS: Mapping[str, Part] = {
    "fashion_titles": _fashion_titles,
    "goods_titles": _goods_titles,
    "sentences": _sentences,
    "queries": _queries,
    "items": _items,
    "offers": _offers,
    "searches": _searches,
    "reviews": _reviews,
    "questions": _questions,
    "messages": _messages,
    "dialogues": _dialogues,
    "addresses": _addresses,
}
PREFIX = "synthetic_"
SOURCES = tuple(f"{PREFIX}{part}_{language}" for language in WORDS for part in PARTS)


def read(source: str, products: int, seed: int) -> Sequence[Record]:
    """Returns the records of one synthetic source, for example "synthetic_reviews_zh".

    Args:
      source: one of SOURCES.
      products: number of products to train on, besides the evaluation catalogue.
      seed: of the whole catalogue.
    """
    part, language = source.removeprefix(PREFIX).rsplit("_", 1)
    make, words = PARTS[part], WORDS[language]
    records: list[Record] = []
    for product in make_products(language, products, seed):
        records.extend(make(words, product, language, random.Random(f"{source} {seed} {product.group}")))
    return records
