import base64
import hashlib
import html.parser
import json
import re
import time
from pathlib import Path
from typing import Any

from ecomgpt_jax.evaluation.judging_page import render_sheet

EVIL = "</script><script>document.title = 'broken'</script><!--<script><img src=x onerror=\"document.title='broken'\">"


def sheet(items: int = 12) -> dict:
    return {
        "study": "0123456789abcdef",
        "annotator": "annotator-1",
        "items": [
            {"id": str(n), "task": "ZH-Made-CLS-t", "prompt": f"提示 {n}\n{EVIL}", "left": f"left {n} {EVIL}",
             "right": ""}
            for n in range(1, items + 1)
        ],
    }  # fmt: skip


class Scripts(html.parser.HTMLParser):
    """Collects the text of every script element as a browser cuts it, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.addresses, self.inside = [], [], False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def test_texts_stay_data() -> None:
    page = Scripts()
    text = render_sheet(sheet())
    page.feed(text)
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0]) == sheet()
    assert "broken" not in page.scripts[1]
    assert page.addresses == []
    escaped = json.dumps(sheet(), ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    assert escaped in text
    naive = Scripts()  # the same page with the data as plain JSON falls apart, so this test can fail
    naive.feed(text.replace(escaped, json.dumps(sheet())))
    assert "document.title = 'broken'" in naive.scripts
    assert not re.search(r"https?://|url\(|@import|innerHTML|eval\(", text)


def test_the_policy_is_of_this_very_script() -> None:
    text = render_sheet(sheet())
    page = Scripts()
    page.feed(text)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_ten_items_are_judged_by_keyboard_saved_and_restored(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "sheet.html").write_text(render_sheet(sheet()), encoding="utf-8")
    browser.get((tmp_path / "sheet.html").as_uri())

    def text(name: str) -> str:
        return browser.find_element("id", name).text

    def press(*keys: str) -> None:
        for key in keys:
            browser.find_element("tag name", "body").send_keys(key)

    assert text("count") == "Item 1 of 12, 0 judged"
    assert text("left") == f"left 1 {EVIL}"
    assert text("right") == "(empty)"
    press("1", "2", "0", Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, "2", "2", "1", "x", "1")
    assert text("count") == "Item 11 of 12, 10 judged"
    press(Keys.BACK_SPACE)
    assert text("left").startswith("left 10 ")
    assert "chosen" in browser.find_element("id", "left-card").get_attribute("class")
    press("2")  # a change of mind
    press("s")
    saved = tmp_path / "saved" / "judgements-annotator-1.json"
    end = time.monotonic() + 600
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.1)
    choices = ["left", "right", "tie", "left", "right", "tie", "right", "right", "left", "right"]
    wanted = {str(number): choice for number, choice in enumerate(choices, start=1)}
    content = json.loads(saved.read_text(encoding="utf-8"))
    assert content == {"study": "0123456789abcdef", "annotator": "annotator-1", "judgements": wanted}

    browser.refresh()
    assert text("count") == "Item 11 of 12, 10 judged"
    press("n", "0", Keys.ARROW_UP, "n")
    assert text("count") == "Item 12 of 12, 11 judged"
    assert "chosen" in browser.find_element("id", "choose-tie").get_attribute("class")
    browser.find_element("id", "back").click()
    browser.find_element("id", "choose-right").click()
    assert "All items are judged" in text("note")
    assert browser.title == "Which answer is better?"
    assert browser.get_log("browser") == []
