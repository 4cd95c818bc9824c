"""Evaluation text is found in every form with the same letters, and nothing else is."""

import itertools
import os
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import contamination, make, task_folder
from ecomgpt_jax.instruct.choose import choose
from ecomgpt_jax.instruct.contamination import Exclusion, fold, normalise
from ecomgpt_jax.instruct.instructions import Row
from ecomgpt_jax.instruct.read import BuildStats
from ecomgpt_jax.instruct.records import LabelledText, Span, TextPair
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, load_tasks, read_rows
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, bind

REVIEW = "The staff was really friendly. We will certainly come back for the grilled octopus with lemon!"
TITLE = "新豪轩门窗斯图加特78系统铝合金窗内开内倒落地窗断桥铝平开窗"
ROWS = [
    TaskRow(REVIEW),
    TaskRow(f"Query: 大落地窗\nCandidate Document: 包年陪伴式男士私人形象设计顾问穿搭, {TITLE}"),
    TaskRow(
        "Context: " + "A long context about nothing in particular which goes on. " * 3 + "\nQuestion: Why is it slow?"
    ),
]


@pytest.fixture(scope="module")
def exclusion() -> Exclusion:
    return Exclusion(ROWS)


def reason(exclusion: Exclusion, text: str) -> str:
    return exclusion.reason(LabelledText(id="1", group="1", language="en", text=text, labels={}))


def test_normalise() -> None:
    assert normalise("Ｔｈｅ  ½-Price_Café！") == "the12pricecafe" == normalise("the 12 price Cafe\u0301")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_ascii_is_folded_as_other_text_is(text: str) -> None:
    plain = text.encode("ascii", "ignore").decode()
    assert fold(plain) == fold(f"{plain}，")
    assert normalise(text) == "".join(c for c in fold(text) if c.isalnum())
    assert not set(fold(text)) - set(normalise(text)) - {" ", "\n"}


def test_planted_copies_are_found(exclusion: Exclusion) -> None:
    assert reason(exclusion, REVIEW) == "text"
    assert reason(exclusion, REVIEW.upper().replace(" ", "\u3000")) == "text"
    assert reason(exclusion, "Nice! the STAFF was really friendly; nice.") == "sentence"
    assert reason(exclusion, f"说明：{TITLE[3:24]}，欢迎选购本店的其他商品") == "run"
    assert reason(exclusion, "appleiphone13pro max 128gb 断桥铝平开窗, " + TITLE[8:28]) == "run"
    assert reason(exclusion, "包年陪伴式男士私人形象设计顾问穿搭") == "text"
    assert reason(exclusion, "So why is it slow") == ""
    pair = TextPair(id="1", group="1", language="zh", left="窗", right=TITLE, label="")
    assert exclusion.reason(pair) == "text"


def test_what_is_merely_alike_stays(exclusion: Exclusion) -> None:
    assert reason(exclusion, "The staff was friendly. We will come back for the octopus!") == ""
    assert reason(exclusion, TITLE[:17]) == ""
    assert reason(exclusion, "大落地窗") == ""  # too short to prove anything
    assert reason(exclusion, "") == ""
    assert reason(exclusion, "!!!") == ""


def test_run_lengths_are_exact(exclusion: Exclusion) -> None:
    assert reason(exclusion, "换" * 9 + TITLE[4:21] + "了" * 9) == ""
    assert reason(exclusion, "换" * 9 + TITLE[4:22] + "了" * 9) == "run"
    kept = normalise(REVIEW)[30:]
    assert reason(exclusion, "zq" + kept[:59] + "zq") == ""
    assert reason(exclusion, "zq" + kept[:60] + "zq") in ("run", "")
    assert reason(exclusion, "zq" + normalise(REVIEW)[10:70] + "zq") == "run"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 3), st.booleans())
def test_probes_find_what_comparing_every_run_finds(start: int, length: int, before: int, chinese: bool) -> None:
    exclusion = Exclusion(ROWS)
    whole = normalise(TITLE if chinese else REVIEW * 2)
    text = "换q"[:before] + whole[start : start + length * (1 if chinese else 3)] + "换"
    runs = exclusion.runs[contamination.RUN_CHINESE] | exclusion.runs[contamination.RUN]
    shared = any(text[i:j] in runs for i, j in itertools.combinations(range(len(text) + 1), 2) if j - i in (18, 60))
    assert (exclusion.reason_of_texts([text]) == "run") is shared


def test_a_line_that_an_operator_put_together_is_found() -> None:
    exclusion = Exclusion([TaskRow("品牌: haier, 海尔")])
    task = bind(classification.CLASSIFICATION, Dataset(name="X", source="x", language="zh", kind="mood"))
    stats = BuildStats()
    rows = make.Rows(DataConfig(), stats, exclusion)
    examples = [
        Example("1", "商品: 冰箱\n品牌: Haier, 海尔", "好"),
        Example("2", "商品: 冰箱\n品牌: 西门子", "好"),
    ]
    assert [bool(rows._unfit(task.name, example.sentences, example.answer)) for example in examples] == [True, False]
    assert rows._unfit(task.name, "写出属性", "商品: 冰箱\n品牌: Haier, 海尔")
    assert stats.dropped == {"evaluation text (row)": 2}


def letters(text: str) -> str:
    """The texts compared by this test, without code of the filter."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] in "LN")


def holds_chinese(text: str) -> bool:
    return any("\u3400" <= c <= "\u9fff" for c in text)


def hashes(text: str, length: int) -> np.ndarray:
    """Returns a hash of every window of `length` characters."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    if len(codes) < length:
        return np.zeros(0, np.uint64)
    found = np.zeros(len(codes) - length + 1, np.uint64)
    for place in range(length):  # Horner's rule, modulo 2**64
        found = found * np.uint64(1_000_003) + codes[place : place + len(found)]
    return found


class SecondOpinion:
    """Evaluation rows as whole inputs and as hashes of their runs."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        inputs = {letters(row.sentences) for task in load_tasks(directory) for row in read_rows(task)}
        self.inputs = {zlib.crc32(text.encode()) for text in inputs if len(text) >= 15}
        chinese = [text for text in inputs if holds_chinese(text)]  # 18 characters count where both texts hold Chinese
        self.runs = {
            n: np.unique(np.concatenate([hashes(text, n) for text in texts] or [np.zeros(0, np.uint64)]))
            for n, texts in ((18, chinese), (60, inputs))
        }

    def _shares_run(self, text: str, length: int) -> bool:
        known, wanted = self.runs[length], hashes(text, length)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return bool((known[places] == wanted).any()) if len(known) else False

    def leaks(self, rows: Iterable[Row]) -> list[str]:
        found = []
        for row in rows:
            # What the instruction says around the input belongs to no record.
            for part in (row["prompt"].split("### Instruction:\n", 1)[-1], row["response"]):
                text = letters(part)
                same = any(zlib.crc32(letters(p).encode()) in self.inputs for p in (part, *part.split("\n")))
                if same or any(self._shares_run(text, n) for n in ((18, 60) if holds_chinese(text) else (60,))):
                    found.append(f"{row['task']}: {part[:200]}")
        return found


def all_rows(data: DataConfig) -> list[Row]:
    choice = choose(data)
    return [row for shard in make.shards(choice) for _, row in make.make_rows(choice, shard, BuildStats(), {})]


def test_nothing_of_the_evaluation_is_left_and_a_second_opinion_would_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = TaskFolder("EN-Held-Extract-x", "x", "{sentences}\n### Response:")
    task_folder.write_task(
        tmp_path / "eval", held, [TaskRow(text, spans=(Span(0, 0, "", text[:9]),)) for text in (REVIEW, TITLE)]
    )
    mine = TaskFolder("EN-Mine-Extract-y", "y", "{sentences}\nDo it.\n### Response:")
    clean = [f"A review of lamp {number}, which is bright enough." for number in range(20)]
    planted = [REVIEW.upper(), f"Seen elsewhere: {REVIEW[8:]}", f"标题\n{TITLE}\n选一个"]
    rows = [TaskRow(text, spans=(Span(0, 0, "", "bright"),)) for text in (*clean, *planted)]
    task_folder.write_task(tmp_path / "mine", mine, (), rows)
    data = DataConfig(mixture="folder", tasks_dir=str(tmp_path / "mine"))

    monkeypatch.delenv("ECOMGPT_EVAL", raising=False)
    second = SecondOpinion(tmp_path / "eval")
    assert len(second.leaks(all_rows(data))) == 3, "without the filter all three planted copies are seen"
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "eval"))
    assert len(all_rows(data)) == 20
    assert second.leaks(all_rows(data)) == []


@pytest.mark.slow
@pytest.mark.parametrize("source", ["zh_jd_title_ner", "en_subjqa", "zh_advertise_gen", "en_mams", "en_aste_v2"])
def test_no_evaluation_row_is_left_in_rows_of_real_sources(source: str) -> None:
    if not os.environ.get("ECOMGPT_EVAL") or not os.environ.get("ECOMGPT_SOURCES"):
        pytest.skip("ECOMGPT_EVAL and ECOMGPT_SOURCES are not set")
    data = DataConfig(mixture="real", sources=(source,), instances_per_task=300)
    second = SecondOpinion(os.environ["ECOMGPT_EVAL"])
    assert second.leaks(all_rows(data)) == []


def test_released_rows_and_listed_overlaps_are_found() -> None:
    directory = os.environ.get("ECOMGPT_EVAL")
    if not directory:
        pytest.skip("ECOMGPT_EVAL is not set")
    exclusion = contamination.load_exclusion([directory])
    for task in load_tasks(directory):
        for row in read_rows(task, limit=50):
            if len(normalise(row.sentences)) >= contamination.SHORTEST:
                assert exclusion.reason_of_texts([row.sentences]), row.sentences
    lists = os.environ.get("ECOMGPT_OVERLAP")
    if lists:
        for path in Path(lists).glob("*.txt"):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert exclusion.reason_of_texts([line]), f"{path.name}: {line}"
