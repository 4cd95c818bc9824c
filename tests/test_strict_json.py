"""What a JSON text may hold beside what `json` takes, and where it is wrong."""

import json

import pytest

from ecomgpt_jax.strict_json import NotJSON, layout_fault, parse


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('{"a": 1, "a": 2}', (1, 10), "the key 'a' occurs twice"),
        ('{"a": {"b": 1},\n "c": [{"b": 1, "d": 2, "b": 3}]}', (2, 25), "the key 'b' occurs twice"),
        ('{"a\\"{": 1, "b": "[", "a\\"{": 2}', (1, 23), "occurs twice"),
        ('{"a": 1e999}', (1, 7), "1e999 is larger than any floating-point number"),
        ('{"1e999": "1e999", "a": [0, -1E+400]}', (1, 29), "-1E+400 is larger"),
        ('{"a": NaN}', (1, 7), "NaN is not JSON"),
        ('[-Infinity]', (1, 2), "-Infinity is not JSON"),
        (f'{{"a": {deep(100)}}}', (1, 106), "nested too deeply, more than 100 levels"),
        (deep(100_000), (1, 101), "nested too deeply"),
        ("1" * 5000, (1, 1), "4300 digits"),
        ('"a\\ud800"', (1, 3), "half of a surrogate pair"),
        ('{"a" 1}', (1, 6), "Expecting ':' delimiter"),
    ],
)  # fmt: skip
def test_refused(text: str, place: tuple[int, int], reason: str) -> None:
    with pytest.raises(NotJSON) as caught:
        parse(text)
    assert ((caught.value.line, caught.value.column), reason in caught.value.reason) == (place, True)


@pytest.mark.parametrize(
    "text", ['{"a": {"a": [{"a": 1}, {"a": 1e308}]}}', deep(100), "1" * 400, '"[{[{"', '{"": 1e-999}']
)
def test_what_is_taken_can_be_written(text: str) -> None:
    assert json.loads(json.dumps(parse(text), allow_nan=False)) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1}', '{"a": 1}\n{\n', "x\n[\n", '["x"]\n{"a": 1}', '{"a" 1}\n{"a": 1}', deep(5000)]
)
def test_no_layout_is_wrong(text: str) -> None:
    assert layout_fault(text) == ""


def test_lines_that_end_with_a_carriage_return_alone_are_named() -> None:
    assert "1:1: lines end with a carriage return alone" in layout_fault('{"a": 1}\r{"a": 2}\r')
    for text in ('{"a": 1},\n{"a": 2},\n', '{"a": 1}{"a": 2}\n'):  # a bad line, which its reader reports
        assert layout_fault(text) == ""
