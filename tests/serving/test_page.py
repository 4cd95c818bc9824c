import time
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.instruct import choose
from ecomgpt_jax.instruct.instructions import render_prompt
from ecomgpt_jax.serving import page
from ecomgpt_jax.serving.protocol import RequestError
from serving.scripted import ScriptedEngine, running


def test_every_form_is_there_and_makes_the_prompt_of_training() -> None:
    tasks, found = choose.declared_tasks(DataConfig()), page.forms()
    assert {(task.family, task.form.name, task.language) for task in tasks} == {
        (family, form.rstrip(","), language.lower()) for language, family, form, _ in map(str.split, found)
    }
    task = next(task for task in tasks if (task.form.name, task.language) == ("fine_category", "en"))
    asked = {"form": "EN CLS fine_category, en", "text": "{label_set} mug", "candidates": "mug\n\n cup \n"}
    assert page.prompt(asked) == render_prompt(task.definition, task.wordings["en"][0], "{label_set} mug", "mug, cup")


@pytest.mark.parametrize(
    ("given", "param"), [({}, "form"), ({"form": "x"}, "form"), ({"form": 5}, "form"), ({"text": []}, "text")]
)
def test_wrong_fields_are_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        page.prompt(given)
    assert caught.value.param == param


def test_the_page_names_no_other_place() -> None:
    text = page.page("</script><b>")
    assert "http" not in text.replace("http-equiv", "")
    assert "</script><b>" not in text


def test_a_task_is_answered_in_a_real_browser_without_a_console_message(browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    with running(ScriptedEngine(pause=0.005)) as server:
        browser.get(f"{server.url}/")
        assert "Try a task with m" in browser.find_element(By.TAG_NAME, "h1").text
        Select(browser.find_element(By.ID, "form")).select_by_value("EN Generate title_writing, en")
        assert not browser.find_element(By.ID, "candidates").is_displayed()
        Select(browser.find_element(By.ID, "form")).select_by_value("EN CLS fine_category, en")
        field = browser.find_element(By.ID, "text")
        field.clear()
        field.send_keys("Blue <b>mug</b>")
        browser.find_element(By.ID, "go").click()
        end = time.monotonic() + 30
        while not (seconds := browser.find_element(By.ID, "seconds").text) and time.monotonic() < end:
            time.sleep(0.05)
        assert seconds.endswith("seconds)")
        prompt, answer = (browser.find_element(By.ID, name).text for name in ("prompt", "answer"))
        assert "Blue <b>mug</b>" in prompt
        assert "Clothing, Electronics, Toys" in prompt
        assert answer, "the script says the prompt"
        assert prompt.startswith(answer)
        assert browser.get_log("browser") == []
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert {name.split("/")[2] for name in loaded} == {f"127.0.0.1:{server.port}"}
