"""The report in a real browser: sorting, filtering, keyboard, a phone, paper, hostile strings."""

import base64
import json
import shutil

import pytest
from sweep_folders import MARKUP, record, write_hostile, write_run, write_trials

from ratatouille_algorithms.scripts.report import main

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not CHROMIUM or not DRIVER:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser):
    """Opens a page at a width; what the browser complains of fails the test."""

    def at(path, width=1280):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(path.as_uri())
        return browser

    browser.get_log("browser")
    yield at
    assert browser.get_log("browser") == []


def write_page(root):
    assert main(["--input_dir", str(root), "--output", str(root / "report.html")]) == 0
    return root / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    for dataset, add in (("PACS", 0.0), ("VLCS", 0.1)):
        write_trials(root, "ERM", [0.50, 0.60 + add], dataset=dataset)
        write_trials(root, "CORAL", [0.70, 0.80], dataset=dataset)
    write_trials(root, "IRM", [0.65, 0.68], dataset="PACS")  # none on VLCS: a missing cell
    args = record(0, [], algorithm="URM")["args"]
    failed = write_run(root / "failed", [], done=False, args=args)
    (failed / "failed").write_text("/a/path/that/is/long/" * 12)
    return write_page(root)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    write_hostile(root)
    return write_page(root)


COLUMN = """
const table = document.querySelector("#leaderboard table");
const i = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[0]);
const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
return rows.map((row) => row.cells[i].textContent);
"""
BUTTON = """
return [...document.querySelectorAll("#leaderboard table th button")]
  .find((button) => button.textContent === arguments[0]);
"""
WIDTHS = "return [document.documentElement.scrollWidth, window.innerWidth];"


def names(driver):
    return driver.execute_script(COLUMN, "Algorithm")


def button(driver, name):
    return driver.execute_script(BUTTON, name)


def sort_state(driver):
    heads = driver.execute_script(
        "return [...document.querySelectorAll('#leaderboard table')][0].tHead.innerHTML"
    )
    return heads.count("aria-sort"), heads


def test_sorting_by_click_puts_missing_last_both_ways(opened, page):
    driver = opened(page)
    before = names(driver)
    button(driver, "PACS").click()
    assert names(driver) == ["CORAL", "IRM", "ERM"] != before
    button(driver, "PACS").click()
    assert names(driver) == ["ERM", "IRM", "CORAL"]
    button(driver, "VLCS").click()
    assert names(driver) == ["CORAL", "ERM", "IRM"]
    button(driver, "VLCS").click()
    assert names(driver) == ["ERM", "CORAL", "IRM"]
    assert sort_state(driver)[0] == 1 and 'aria-sort="ascending"' in sort_state(driver)[1]


def test_sorting_by_keyboard_is_said_aloud(opened, page):
    from selenium.webdriver.common.keys import Keys

    driver = opened(page)
    button(driver, "Algorithm").send_keys(Keys.ENTER)
    assert names(driver) == ["CORAL", "ERM", "IRM"]
    button(driver, "Algorithm").send_keys(Keys.SPACE)
    assert names(driver) == ["IRM", "ERM", "CORAL"]
    said = driver.find_element("id", "said").get_attribute("textContent")
    assert said == "Sorted by Algorithm, descending"


def test_the_first_tab_is_a_visible_link_past_the_header(opened, page):
    from selenium.webdriver.common.keys import Keys

    driver = opened(page)
    driver.find_element("tag name", "body").send_keys(Keys.TAB)
    link = driver.switch_to.active_element
    assert link.text == "Skip to the leaderboard" and link.rect["x"] >= 0
    style = driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", link)
    assert style == "solid"
    link.send_keys(Keys.ENTER)
    assert driver.current_url.endswith("#leaderboard")


def test_filtering_rows_by_words_and_alternatives(opened, page):
    driver = opened(page)
    box = driver.find_element("id", "filter-board")
    box.send_keys("co, irm")
    assert sorted(names(driver)) == ["CORAL", "IRM"]
    assert "rows shown" in driver.find_element("id", "shown-board").text
    box.clear()
    box.send_keys("nothing")
    assert names(driver) == []


def test_published_rows_can_be_hidden(opened, page):
    driver = opened(page)
    section = driver.find_element("class name", "published")
    assert section.is_displayed() and "published" in section.text
    driver.find_element("id", "show-published").click()
    assert not section.is_displayed()


def test_runs_are_drawn_when_their_group_opens(opened, page):
    from selenium.webdriver.common.keys import Keys

    driver = opened(page)
    group = driver.find_element("class name", "group")
    assert not group.find_elements("tag name", "table")
    group.find_element("tag name", "summary").send_keys(Keys.ENTER)
    wait_for_drawing(driver)
    assert len(group.find_elements("css selector", "tbody tr")) == 8
    lines = group.find_elements("css selector", "tbody tr:first-child polyline")
    assert [line.get_attribute("class") for line in lines] == ["line val", "line test", "line loss"]
    label = group.find_element("css selector", "svg").get_attribute("aria-label")
    assert (
        label == "Accuracy in percent over 100 steps: validation from 80 to 80, test from 50 to 50"
    )
    box = driver.find_element("id", "filter-runs")
    box.send_keys("vlcs erm")
    shown = [g for g in driver.find_elements("class name", "group") if g.is_displayed()]
    assert [g.text.splitlines()[0] for g in shown] == [
        "ERM on VLCS, fine-tuning or training 8 runs"
    ]


def test_controls_have_names(opened, page):
    driver = opened(page)
    for element in driver.find_elements(
        "css selector", "input, button, a, summary, img, svg[role]"
    ):
        if element.is_displayed():
            assert element.accessible_name.strip(), element.get_attribute("outerHTML")


OPEN_ALL = "document.querySelectorAll('details').forEach((d) => { d.open = true; });"
UNDRAWN = "return document.querySelectorAll('details.group[open]:not(:has(table))').length;"


def wait_for_drawing(driver):
    """Groups are drawn when the browser gets round to telling the page that they opened."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 10).until(lambda d: d.execute_script(UNDRAWN) == 0)


def open_all(driver):
    driver.execute_script(OPEN_ALL)
    wait_for_drawing(driver)


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_a_phone_never_scrolls_sideways(which, opened, request):
    driver = opened(request.getfixturevalue(which), width=375)
    open_all(driver)
    assert driver.find_elements("css selector", "#runs tbody tr")
    assert driver.execute_script(WIDTHS) == [375, 375]


def test_paper_cuts_nothing(opened, page):
    driver = opened(page)
    open_all(driver)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    inches = (210 - 28) / 25.4
    metrics = {"width": int(96 * inches), "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    width, there = driver.execute_script(WIDTHS)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert width <= there
    pdf = driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")


def test_hostile_strings_are_inert(opened, hostile):
    driver = opened(hostile)
    open_all(driver)
    for each in driver.find_elements("css selector", "th button"):
        driver.execute_script("arguments[0].click()", each)
    assert driver.execute_script("return window.hacked === undefined")
    code = """[...document.scripts].filter((s) => s.type !== "application/json")"""
    assert driver.execute_script(f"return {code}.length") == 1  # the others are data
    assert driver.execute_script("return document.images.length") == 1
    schemes = driver.execute_script("return [...document.links].map((a) => a.protocol)")
    assert len(schemes) > 4 and set(schemes) <= {"file:", "https:"}
    assert MARKUP in driver.find_element("tag name", "body").text


def test_a_link_leads_to_the_run_folder(opened, hostile):
    driver = opened(hostile)
    open_all(driver)
    link = driver.find_element("css selector", "a.run[href*='javascript']")
    assert link.get_property("href") == (
        hostile.parent / "javascript:window.hacked=1"
    ).as_uri().replace("javascript:", "javascript%3A")


def test_the_page_works_without_its_script(opened, page):
    driver = opened(page)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.refresh()
    text = driver.find_element("tag name", "main").text
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "CORAL" in text and "switched off" in text
    assert json.loads(json.dumps(text)).count("Show algorithms named") == 0
