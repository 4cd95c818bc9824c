import re

import pytest

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.instruct.sources.places import COLLECTIONS, choose


def test_every_file_is_pinned_to_a_commit() -> None:
    wanted = [file for collection in COLLECTIONS.values() for file in collection.files]
    assert len(wanted) == 230 + 26 + 4 + 1
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+/[0-9a-f]{40}/[^\\]+", file.remote) for file in wanted)
    assert all(".." not in (file.remote + "/" + file.target).split("/") for file in wanted)
    assert [file.target for file in wanted if len(file.digest) == 40] == ["benchmarks/shopping_mmlu/data.zip"]
    assert len({file.target.casefold() for file in wanted}) == len(wanted)
    assert all(file.target.startswith(f"{each.name}/") for each in COLLECTIONS.values() for file in each.files)
    assert COLLECTIONS["sources/zh_product_title_category"].files[0].remote.endswith("/mySpider/JDdata.csv")


def test_what_has_no_licence_for_copies_is_never_fetched() -> None:
    own = COLLECTIONS["benchmarks/chinese_ecom_qa"]
    assert (own.files, own.redistributable) == ((), False)
    assert "your own copy" in own.licence


def test_choose() -> None:
    names = {each.name for each in choose(("sources",), (), redistributable=True)}
    assert 20 < len(names) < 60
    assert "sources/en_mams" in {each.name for each in choose(("sources",), (), redistributable=False)}
    picked = choose(("sources", "evaluation", "benchmarks"), ("ecinstruct", "EN-Lenovo-NER-NER"), redistributable=False)
    assert [each.name for each in picked] == ["benchmarks/ecinstruct", "evaluation/Lenovo/tasks/EN-Lenovo-NER-NER"]
    with pytest.raises(ConfigError, match=r"no sources named 'en_mam'.*en_mams"):
        choose(("sources",), ("en_mam",), redistributable=False)
    with pytest.raises(ConfigError, match="leaves nothing"):
        choose(("evaluation",), (), redistributable=True)
