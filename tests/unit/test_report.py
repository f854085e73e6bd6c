"""The report as text: what is in it, what is escaped, which folders it can read."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from sweep_folders import FILE_MARKUP, MARKUP, record, write_hostile, write_run, write_trials

from ratatouille_algorithms import inventory
from ratatouille_algorithms.report import as_json
from ratatouille_algorithms.report_facts import duration, leakage
from ratatouille_algorithms.report_runs import curve, varied
from ratatouille_algorithms.scripts.report import main

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 9


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.groups, self._inside = [], "", [], ""
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._inside = ""
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self._inside == "script":
            if self.tags[-1][1].get("type") == "application/json":
                self.groups.append(json.loads(data))
        elif self._inside != "style":
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(folder, tmp_path, *options):
    output = tmp_path / "pages" / "report.html"
    assert main(["--input_dir", str(folder), "--output", str(output), *options]) == 0
    return Page(output.read_text(encoding="utf-8"))


@pytest.fixture
def sweep(tmp_path):
    root = tmp_path / "sweep"
    write_trials(root, "ERM", [0.5, 0.6])
    write_trials(root, "CORAL", [0.7, 0.9])
    return root


def test_what_was_run_and_its_cost(sweep, tmp_path):
    page = page_of(sweep, tmp_path)
    assert "16 of 16" in page.text  # jobs done
    assert "1,616" in page.text  # updates: 16 runs of 101
    assert "CORAL" in page.text and "RotatedDigits" in page.text
    assert "Report of sweep" in page.text
    assert "There are no figures" in page.text and "scripts.analyze" in page.text


def test_seconds_are_those_of_updates(tmp_path):
    folder = write_run(tmp_path / "s" / "run", [record(step, [(0.5, 0.5)]) for step in (0, 100)])
    (run,) = inventory.read(folder.parent)
    assert run.seconds == pytest.approx(10.1)  # 101 updates of 0.1 s
    assert run.n_steps == 101


def test_kinds_of_jobs(tmp_path):
    accs = [(0.5, 0.5)] * 2
    write_run(tmp_path / "a", [record(0, accs)])
    write_run(tmp_path / "lp" / "b", [record(0, accs, what_is_trainable="classifier")])
    write_run(tmp_path / "aux" / "c", [record(0, accs, test_envs=[-1])])
    write_run(tmp_path / "d", [record(0, accs, algorithm="DiWA_uniform")])
    kinds = {run.path.name: run.kind for run in inventory.read(tmp_path)}
    assert kinds == {
        "a": inventory.RUN, "b": inventory.PROBE, "c": inventory.AUXILIARY, "d": inventory.AVERAGE
    }  # fmt: skip


def test_failed_and_unfinished_jobs_are_listed_with_their_reason(sweep, tmp_path):
    run = write_run(sweep / "x", [record(0, [(0.5, 0.5)], algorithm="IRM")], done=False)
    (run / "failed").write_text("loss is nan at step 57")
    write_run(sweep / "y", [], done=False, num_classes=3)
    page = page_of(sweep, tmp_path)
    assert "loss is nan at step 57" in page.text
    assert "16 of 18" in page.text and "1 failed" in page.text and "1 incomplete" in page.text


def test_links_lead_to_run_folders_from_where_the_page_is(sweep, tmp_path):
    (sweep / "ERM-0-0-" / "done").unlink()
    page = page_of(sweep, tmp_path)
    links = [a["href"] for a in page.all("a") if a["href"].startswith("./")]
    assert links == ["./../sweep/ERM-0-0-"]
    groups = page.groups
    hrefs = [run["href"] for group in groups for run in group["runs"]]
    assert len(hrefs) == 16
    assert all((tmp_path / "pages" / href).is_dir() for href in hrefs)


def test_figures_are_embedded_with_alternative_text_and_caption(sweep, tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "mode_connectivity.png").write_bytes(PNG)
    (figures / "mode_connectivity.txt").write_text("Accuracy along the segment.")
    (figures / "mode_connectivity.csv").write_text("a,b\n")
    (figures / "robust.png").write_bytes(PNG)
    (figures / "fake.png").write_text("<script>")
    page = page_of(sweep, tmp_path, "--analysis", str(figures))
    image, known = page.all("img")
    assert "segment from the foundation" in known["alt"]
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"] == "Figure: mode connectivity. Accuracy along the segment."
    assert "Accuracy along the segment." in page.text
    assert "./../figures/mode_connectivity.csv" in [a["href"] for a in page.all("a")]


def test_curves_are_data_with_gaps_where_nothing_was_recorded(tmp_path):
    some = [record(step, [(0.1, 0.5), (0.2, 0.25)]) for step in (0, 50, 100)]
    some[1]["loss"] = "much"
    folder = write_run(tmp_path / "s" / "run", some)
    (run,) = inventory.read(folder.parent)
    assert curve(run) == [[0, 50, 100], [25.0] * 3, [10.0] * 3, [0.5, None, 0.5]]


def test_long_curves_are_thinned_and_keep_their_end(tmp_path):
    some = [record(step, [(0.1, 0.5), (0.2, 0.25)]) for step in range(1000)]
    (run,) = inventory.read(write_run(tmp_path / "s" / "run", some).parent)
    steps = curve(run)[0]
    assert len(steps) <= 120 and steps[-1] == 999


def test_selected_runs_are_those_of_id_validation(tmp_path):
    for seed, acc in enumerate((0.6, 0.8, 0.7)):
        accs = [(0.5, 0.1), (0.9, acc)]
        write_run(tmp_path / "s" / str(seed), [record(5, accs, hparams_seed=seed)])
    (group,) = page_of(tmp_path / "s", tmp_path).groups
    assert [run["chosen"] for run in group["runs"]] == [False, True, False]
    assert [run["val"] for run in group["runs"]] == [60.0, 80.0, 70.0]


def test_of_equal_runs_the_highest_hparams_seed_is_selected(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "s" / str(seed), [record(5, [(0.5, 0.6)] * 2, hparams_seed=seed)])
    (group,) = page_of(tmp_path / "s", tmp_path).groups
    assert [run["chosen"] for run in group["runs"]] == [False, False, True]


def test_a_report_of_several_folders(tmp_path, capsys):
    accs = [(0.5, 0.6)] * 2
    for name, seed in (("x", 0), ("y", 1)):
        write_run(tmp_path / name / "run", [record(5, accs, hparams_seed=seed)])
    words = ["--output", str(tmp_path / "r.html"), "--strict", "--input_dir"]
    assert main([*words, str(tmp_path / "x"), str(tmp_path / "y")]) == 0
    page = Page((tmp_path / "r.html").read_text())
    assert "2 of 2" in page.text and "Report of x and y" in page.text
    (group,) = page.groups
    assert [run["href"] for run in group["runs"]] == ["./x/run", "./y/run"]
    write_run(tmp_path / "y" / "copy", [record(5, accs, hparams_seed=1)])
    assert main([*words, str(tmp_path / "x"), str(tmp_path / "y")]) == 3
    assert "records stand twice" in capsys.readouterr().err


def test_only_hparams_that_differ_are_shown():
    assert varied([{"lr": 1, "b": 2}, {"lr": 3, "b": 2}]) == ["lr"]


def run_from(root, name, source, **args):
    initial = [{"role": "auxiliary", "run": source}]
    records = [record(0, [(0.5, 0.5)], algorithm="InterTraining", **args)]
    write_run(root / name, records, provenance={"initial": initial})


def test_a_start_from_weights_that_saw_the_target_is_told(tmp_path):
    accs = [(0.5, 0.5)]
    write_run(tmp_path / "aux" / "ink", [record(0, accs, dataset="InkDigits", test_envs=[-1])])
    run_from(tmp_path, "a", "ink")
    assert "none of these had seen the target" in leakage(inventory.read(tmp_path))
    run_from(tmp_path, "b", "ink", dataset="InkDigits")
    assert "had seen their own target dataset: b." in leakage(inventory.read(tmp_path))


def test_public_folders_of_records_only(tmp_path):
    some = record(300, [(0.5, 0.5)] * 4)
    del some["args"]["protocol"], some["args"]["holdout_fraction"], some["step_time"]
    write_run(tmp_path / "s" / "a", [some])
    page = page_of(tmp_path / "s", tmp_path)
    assert "not recorded" in page.text and "1 of 1" in page.text


def test_a_sweep_without_records_has_a_report_too(tmp_path):
    run = write_run(tmp_path / "s" / "a", [], done=False, num_classes=3)
    (run / "failed").write_text("out of memory")
    page = page_of(tmp_path / "s", tmp_path)
    assert "out of memory" in page.text and "No run with a test domain" in page.text


def test_damaged_files_are_named(sweep, tmp_path, capsys):
    (sweep / "ERM-0-0-" / "run.json").write_text("{")
    with open(sweep / "CORAL-0-0-" / "results.jsonl", "a") as file:
        file.write("{")
    page = page_of(sweep, tmp_path)
    err = capsys.readouterr().err
    for name in ("ERM-0-0-/run.json", "CORAL-0-0-/results.jsonl"):
        assert name in page.text and err.count(name) == 1


def test_no_string_of_a_file_becomes_markup(tmp_path):
    write_hostile(tmp_path / "s")
    page = page_of(tmp_path / "s", tmp_path, "--title", MARKUP)
    names = [tag for tag, _ in page.tags]
    assert page.open == []
    assert names.count("script") == 1 + len(page.groups) and names.count("img") == 1
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    assert all(a["href"].startswith(("#", "./", "https://")) for a in page.all("a"))
    assert page.text.count("<script>window.hacked = 1</script>") > 10  # shown as text
    assert FILE_MARKUP in page.all("img")[0]["alt"]
    text = json.dumps(page.groups)
    assert json.dumps(MARKUP)[1:-1] in text


def test_texts_and_names_that_are_no_utf8_are_shown(tmp_path):
    runs = os.fsencode(tmp_path / "s")
    run = write_run(tmp_path / "s" / "a", [record(0, [(0.5, 0.5)] * 2)], code_version="\ud800")
    os.rename(run, os.path.join(runs, b"\xff run"))
    page = page_of(tmp_path / "s", tmp_path)
    assert "\\ud800" in page.text
    assert [r["href"] for group in page.groups for r in group["runs"]] == ["./../s/%FF%20run"]


def test_embedded_json_cannot_end_its_element():
    value = {"</script><!--": "&amp;\u2028"}
    text = as_json(value)
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == value


def test_nothing_is_fetched(sweep, tmp_path):
    page = page_of(sweep, tmp_path)
    assert not page.all("link") and not [a for a in page.all("script") if "src" in a]
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_the_page_is_small_for_hundreds_of_runs(tmp_path):
    for seed in range(300):
        some = [record(10 * s, [(0.5, 0.123)] * 4, hparams_seed=seed) for s in range(20)]
        write_run(tmp_path / "s" / str(seed), some)
    page_of(tmp_path / "s", tmp_path)
    assert (tmp_path / "pages" / "report.html").stat().st_size < 400_000


def test_wrong_input_is_one_line(tmp_path, sweep, capsys):
    out = ["--output", str(tmp_path / "r.html")]
    assert main(["--input_dir", str(tmp_path / "none"), *out]) == 2
    assert main(["--input_dir", str(sweep), *out, "--analysis", str(tmp_path / "none")]) == 2
    assert main(["--input_dir", str(sweep), "--output", str(sweep)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 seconds"), (150, "2.5 minutes"), (86400 * 3, "3.0 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_torch_is_not_imported(sweep, tmp_path):
    arguments = ["--input_dir", str(sweep), "--output", str(tmp_path / "r.html")]
    code = (
        "import sys; from ratatouille_algorithms.scripts.report import main; "
        f"main({arguments!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
