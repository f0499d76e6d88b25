"""The report, of real short runs, and in a real browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ff_lightning.cli import main
from ff_lightning.errors import InputError
from ff_lightning.report import write_report
from ff_lightning.report.charts import run_charts
from ff_lightning.report.run import read_run
from tests.command_line import QUIET, configs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits_run: Path, text_run: Path) -> Path:
    """Folder of a classifier, its twin and a language model, each trained for a moment."""
    folder = tmp_path_factory.mktemp("runs")
    for run, name in ((digits_run, "ff"), (text_run, "gpt")):
        shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("*.ckpt"))
    twin = ["--trainer.default_root_dir", str(folder / "twin")]
    assert main(["fit", *configs("digits_mlp", "with/twin", "with/smoke"), *QUIET, *twin]) == 0
    return folder


def test_the_page_of_a_classifier_has_all_that_the_run_left(runs: Path) -> None:
    page = write_report([runs / "ff"]).read_text()
    assert (runs / "ff/report.html").is_file()
    for curve in ("val/accuracy", "train/goodness", "train/margin", "train/gradient_norm", "train/dead_units"):
        assert f"<h4>{curve}</h4>" in page
    assert page.count("data:image/png;base64,") == 4 == len(list((runs / "ff/pictures").iterdir()))
    assert "Validation after epoch 6" in page
    assert "test accuracy" in page
    record = json.loads((runs / "ff/run.json").read_text())
    assert record["run"]["command"].startswith("ff-lightning fit --config ")
    for shown in (record["run"]["command"], record["surroundings"]["torch"], "class_path: ff_lightning.FFClassifier"):
        assert html.escape(shown, quote=False) in html.unescape(page).replace("&", "&amp;")


def test_the_page_of_a_language_model_has_floors_and_text(runs: Path) -> None:
    page = write_report([runs / "gpt"]).read_text()
    for row in ("uniform", "5-gram", "block 0", "up to block 1", "samples"):
        assert f"<td>{row}</td>" in page
    assert re.search(r'<td class="bar" style="--share: [01]\.\d+">', page)
    assert "<mark>" in page
    assert "After 20 updates" in page


def test_runs_are_compared_where_the_same_was_measured(runs: Path) -> None:
    together = write_report([runs / name for name in ("ff", "twin", "gpt")], runs / "all/page.html").read_text()
    compared = together.split("<h2>Compared</h2>")[1].split("</section>")[0]
    assert compared.count("<svg") == 2, "what they are judged by, and the loss of the training"
    assert "test accuracy" in compared
    assert compared.index("ff <b>") < compared.index("twin <b>")
    assert "gpt" not in compared


def test_it_loads_nothing_and_runs_nothing(runs: Path) -> None:
    page = write_report([runs / "ff", runs / "gpt"], runs / "page.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"<script|@import|url\(| on\w+=", page)


def test_whatever_a_folder_holds_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    (folder / "pictures").mkdir(parents=True)
    attack = '"></pre><script>alert(2)</script>'
    (folder / "pictures" / "a'b&c<i>.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(16))
    (folder / "config.yaml").write_text(attack)
    (folder / "samples.txt").write_text(f"=== after 3 updates ===\n{attack}|{attack}\n\n")
    (folder / "metrics.csv").write_text("step,val/accuracy,lr-x\n0,0.5,nan\n1,1e999,abc\n2,0.75,1\n")
    table = {"title": attack, "caption": attack, "columns": ["", attack], "rows": [[attack, "1"]], "lines": []}
    record = {"run": {"command": attack, "task": attack}, "surroundings": {attack: attack}, "tables": {"fit": table}}
    (folder / "run.json").write_text(json.dumps(record))
    page = write_report([folder]).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<i>" not in page.replace("<i style", "")
    assert page.count(html.escape(attack)) >= 6 or page.count("&lt;script&gt;") >= 6


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    (tmp_path / "metrics_1.csv").write_text("step,train/loss/block_0\n1,3.0\n3,2.0\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss/block_0\n3,2.5\n5,1.0\n")
    assert read_run(tmp_path).curves == {"train/loss/block_0": [(2, 3.0), (4, 2.5), (6, 1.0)]}


def test_curves_are_placed_by_block_and_stream() -> None:
    curves = {
        "train/goodness_pos/block_0": [(0, 2.0), (10, 4.0)],
        "train/goodness_neg/block_0": [(0, 2.0), (10, 0.0)],
        "train/loss": [(0, 9.0)],
        "lr-Adam-1": [(10, 0.1)],
        "lr-Adam": [(10, 0.2)],
        "something/else": [(0, 1.0)],
    }
    charts = {chart.title: chart.lines for chart in run_charts(curves)}
    assert set(charts) == {"train/goodness", "train/loss", "learning rate"}
    (solid, dashed) = charts["train/goodness"]
    assert (solid.label, solid.dashed, dashed.label, dashed.dashed) == ("block 0", False, "", True)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in solid.points.split())
    assert x0 < x1
    assert y0 > y1, "SVG counts downwards"
    assert [line.last for line in charts["learning rate"]] == ["0.2", "0.1"]


def test_a_constant_curve_has_a_place(tmp_path: Path) -> None:
    (line,) = run_charts({"train/separation/block_0": [(7, 1.0)]})[0].lines
    assert "nan" not in line.points


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"Passed `run_dirs=.*{name}`"):
        write_report([tmp_path / name])


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome to look at the page with")
def test_a_browser_shows_it_without_complaint_at_every_width(runs: Path, tmp_path: Path) -> None:
    page = write_report([runs / "ff", runs / "twin", runs / "gpt"], tmp_path / "page.html").read_text()
    frames = "".join(
        f'<iframe id="{name}" width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for name, width in WIDTHS.items()
    )
    measure = """<script>addEventListener("load", () => {
      const seen = {};
      for (const frame of document.querySelectorAll("iframe")) {
        const root = frame.contentDocument.documentElement, inside = frame.contentWindow.innerWidth;
        const images = [...frame.contentDocument.images];
        seen[frame.id] = {width: inside, over: root.scrollWidth - root.clientWidth, height: root.scrollHeight,
                          broken: images.filter(image => !image.naturalWidth).length, images: images.length};
      }
      document.body.innerHTML = "<pre>" + JSON.stringify(seen) + "</pre>";
    });</script>"""
    (tmp_path / "frames.html").write_text(f"<!doctype html><link rel=icon href=data:,><body>{frames}{measure}</body>")
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path}/frames.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert complaints == []
    seen = json.loads(re.search(r"<pre>(\{.*?\})</pre>", done.stdout)[1])  # type: ignore[index]
    for name, width in WIDTHS.items():
        assert seen[name]["width"] == width
        assert seen[name]["over"] == 0, f"the page scrolls sideways on a {name}"
        assert seen[name]["broken"] == 0 < seen[name]["images"]
        assert seen[name]["height"] > 2000
