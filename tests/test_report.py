"""The report: complete and self-contained as text, and, in a real browser, readable at every width."""

from __future__ import annotations

import html.parser
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from browser import Browser

import colora_theory as ct
from colora_theory.reports import html as report
from colora_theory.reports.strip import strip
from colora_theory.verdicts.judge import Verdict

STUDY = """
schema = 1
name = "shown"
title = "A study <shown> & told"
claim = "Errors stay at the level, \\"whatever\\" the rest."
learned = "They do."
seed = 5
[problem]
num_samples = 20
dim_in = 6
noise_std = 0.1
rank = 2
[grid]
num_users = [4, 8]
[[estimator]]
name = "altmin"
[[estimator]]
name = "lora_gd"
params = { step = 1.9, max_sweeps = 400 }
[metrics]
use = ["parameter_error", "mean_user_error", "success"]
[[guarantee]]
name = "cramer_rao"
estimator = "altmin"
[run]
trials = 9
max_failures = 0.9
[[figure]]
kind = "curve"
x = "num_users"
y = "mean_user_error"
estimators = ["altmin"]
overlay = ["cramer_rao"]
[[figure]]
kind = "trajectory"
y = "objective"
trials = 2
estimators = ["altmin"]
[[figure]]
kind = "scatter"
overlay = ["cramer_rao"]
[[figure]]
kind = "bars"
y = "parameter_error"
estimators = ["altmin"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ct.Results:
    folder = tmp_path_factory.mktemp("report")
    (folder / "shown.toml").write_text(STUDY)
    return ct.run(ct.Study.from_toml(folder / "shown.toml"), out=folder / "run", n_jobs=1)


@pytest.fixture(scope="module")
def page(run: ct.Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    report.write([run, run], out)
    return out


class Outline(html.parser.HTMLParser):
    """Headings, ids, opened and closed elements of a page."""

    VOID = ("wbr", "meta", "link", "br", "path", "use", "rect", "image")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert not {"iframe", "img"} & outline.tags
    assert text.count("<script") == text.count("<script>") == 1  # one of its own, which the page works without
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', text)
    assert "@import" not in text
    targets = re.findall(r'href="#([^"]+)"', text)
    assert set(targets) <= set(outline.ids)


def test_it_says_what_a_reader_asks(page: Path, run: ct.Results) -> None:
    text = page.read_text(encoding="utf-8")
    assert "A study &lt;shown&gt; &amp; told" in text
    assert "Errors stay at the level, &quot;whatever&quot; the rest." in text
    assert "They do." in text
    for verdict in ct.check(run):
        assert f">{verdict.status}</span>" in text
    assert str(run.manifest["seed"]) in text
    assert str(run.manifest["numpy"]) in text
    failed = run.counts()[1]
    assert (f"{failed} fits failed" in text) if failed else ("No fit failed" in text)
    assert len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]{40,}"', text)) == 8 + text.count('class="strip"')
    told = {(v.guarantee, v.estimator) for v in ct.check(run) if v.cell and np.isfinite(v.tightness)}
    assert text.count('class="strip"') == len(told) * text.count("<section") > 0


def test_the_verdict_stands_beside_the_guarantee() -> None:
    """A narrow page shows the first two columns: the guarantee, whose long name may break, and its verdict."""
    verdict = Verdict(guarantee="aligned_fresh_sample_evolution", status="holds", kind="prediction", estimator="e")
    row = report._verdicts([verdict], {}).partition("<tbody>")[2].partition("</tbody>")[0]
    assert "aligned_<wbr>fresh_<wbr>sample_<wbr>evolution" in row
    assert row.index("evolution") < row.index("holds") < row.index(">e<")
    assert row.count("prediction") == 1  # its kind and its standing are one word


def test_the_resolved_study_reads_back_as_the_same_study(run: ct.Results) -> None:
    text = tomli_w.dumps(run.study.resolved())
    assert tomllib.loads(text) == run.study.resolved()
    assert ct.Study.from_dict(tomllib.loads(text)).identity() == run.study.identity()


def test_inline_figures_are_valid_xml_with_ids_of_their_own() -> None:
    file = (
        '<?xml version="1.0"?><!DOCTYPE svg><svg width="9pt" height="8pt" viewBox="0 0 9 8" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><metadata>x</metadata>'
        '<g id="a" clip-path="url(#b)"><use xlink:href="#c"/></g></svg>'
    )
    element = report.inline_svg(file, "one", 'say "this"')
    ET.fromstring(element)
    assert 'id="one-a"' in element
    assert "url(#one-b)" in element
    assert 'href="#one-c"' in element
    assert "metadata" not in element
    assert 'aria-label="say &quot;this&quot;"' in element


def test_a_report_of_nothing_or_to_nowhere_is_refused(run: ct.Results, tmp_path: Path) -> None:
    with pytest.raises(ct.InputError, match="at least one run"):
        report.write([], tmp_path / "a.html")
    with pytest.raises(ct.InputError, match="cannot write"):
        report.write([run], tmp_path / "no" / "a.html")


#: Texts whose colours differ too little from what lies behind them.
CONTRAST = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg')
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).filter(e => {
      const pair = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
      return (pair[0] + .05) / (pair[1] + .05) < 4.5; }).map(e => e.outerHTML.slice(0, 80));
})()
"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser_everything_is_visible_and_nothing_overflows(page: Path, tmp_path: Path, width: int) -> None:
    with Browser(tmp_path) as browser:
        browser.open(page, width)
        assert browser.complaints() == []
        assert [url for url in browser.requests() if not url.startswith("data:")] == [page.resolve().as_uri()]
        assert browser.ask("document.documentElement.scrollWidth") <= width
        sizes = browser.ask(
            "[...document.querySelectorAll('figure svg')].map(e => [e, e.parentElement].map(e => "
            "e.getBoundingClientRect())).map(([r, f]) => [r.width, r.height, f.left, f.right])"
        )
        assert len(sizes) == 8
        for wide, high, left, right in sizes:
            assert wide >= 250
            assert high >= 100
            assert left >= 0
            assert right <= width
        assert browser.ask(CONTRAST) == []


@pytest.mark.browser
def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(page, 1000)
        assert browser.pdf_pages() >= 3


def test_marks_of_tightness_stand_where_their_logarithms_are() -> None:
    cells = [
        Verdict(guarantee="g", status=s, tightness=t, cell="c") for s, t in (("holds", 10.0), ("violated", 0.1))
    ]
    picture = strip([*cells, Verdict(guarantee="g", status="vacuous", cell="c")])
    places = [float(x) for x in re.findall(r'd="M([\d.]+) 5v12"', picture)]
    one = float(re.findall(r'd="M([\d.]+) 2v16"', picture)[0])
    assert places == [145.0, 5.0]
    assert one == 75.0
    assert "2 cells, from 0.1 to 10" in picture
    assert picture.count("#17643a") == picture.count("#a3130f") == 1
    assert strip([Verdict(guarantee="g", status="holds", cell="c")]) == ""


@pytest.mark.browser
def test_tables_sort_and_filter(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(page, 1200)
        rows = "[...document.querySelector('table[data-sortable]').tBodies[0].rows]"

        def column(number: int, which: str = "true") -> list[str]:
            found = browser.ask(f"{rows}.filter(r => {which}).map(r => r.cells[{number}].textContent)")
            return [str(text) for text in found]

        head = browser.ask("[...document.querySelectorAll('table[data-sortable] th')].map(h => h.textContent)")
        at = head.index("trials")
        before = [int(text) for text in column(at)]
        press = f"document.querySelectorAll('table[data-sortable] th')[{at}].querySelector('button').click()"
        browser.ask(press)
        assert [int(text) for text in column(at)] == sorted(before)
        browser.ask(press)
        assert [int(text) for text in column(at)] == sorted(before, reverse=True)
        first = column(0)[0]
        field = "document.querySelector('input[type=search]')"
        browser.ask(f"{field}.value = {first!r}, {field}.dispatchEvent(new Event('input'))")
        names = column(0, "!r.hidden")
        assert names
        assert set(names) == {first}


def test_how_to_install_what_the_run_used() -> None:
    package = report._install({"colora_theory": "1.2", "commit": None})
    assert package.startswith("pip install colora_theory==1.2")
    checkout = report._install({"colora_theory": "1.2", "commit": "abc", "dirty": True})
    assert "at commit abc, with the uncommitted changes" in checkout
