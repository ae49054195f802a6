"""The report: one self-contained folder, every name escaped, nothing remote, nothing hidden."""

from __future__ import annotations

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from ldmsid_core.errors import OutputError
from ldmsid_core.evaluation.plots import save_plot
from ldmsid_core.evaluation.report import check_report, page, write_report
from ldmsid_core.evaluation.report_sheet import Sheet, build_sheet, chosen_sheets
from ldmsid_core.evaluation.ruler import WEIGHT_FREE, Ruler
from ldmsid_core.evaluation.scores import Score, Scores
from ldmsid_core.evaluation.summary import Evaluation

NASTY = '<script>alert("$x_1$")</script>&\'_'
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects tags, texts and links, and refuses crossed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.bold: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "b":
            self.bold.append(data)


def evaluation(*, images: int = 3, name: str = "picture") -> Evaluation:
    rows = []
    for number in range(images):
        for place, route in enumerate(("first", name)):
            values = {m.key: 0.5 + 0.01 * number + 0.1 * place for m in WEIGHT_FREE}
            rows.append(Score(f"{name} {number}", route, f"s{number}", 100.0 + 150 * (number % 2),
                              name, values))  # fmt: skip
    pixels = np.zeros((20, 30, 3), np.uint8)
    sheets = (Sheet(name, 100.0, ("first", name, "truth"), pixels),)
    ruler = Ruler(WEIGHT_FREE, ("LPIPS: not computed, no weight file given",))
    return Evaluation(name, Scores(tuple(rows)), ruler, (f"note {name}",), {name: name}, sheets)


def test_report_is_whole_and_self_contained(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluation())
    folder = tmp_path / "out"
    found = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert not {"script", "link", "iframe", "form"} & set(found.tags)
    for link in found.links:
        assert ":" not in link and not link.startswith("/")
        assert (folder / link).is_file(), link
    pictures = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert pictures == sorted({link for link in found.links if link.endswith(".png")})
    assert len(pictures) == len(WEIGHT_FREE) + 1
    for name in pictures:
        with Image.open(folder / name) as picture:
            picture.load()
    everything = {p.name for p in folder.iterdir()}
    assert everything == {"index.html", "per_image.csv", "summary.json", "plots", "sheets"}
    assert json.loads((folder / "summary.json").read_text())["pictures"] == 3
    with (folder / "per_image.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6


def test_every_name_is_escaped_in_page_and_plots(tmp_path: Path) -> None:
    write_report(tmp_path, evaluation(name=NASTY))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "".join(Page(text).texts).count(NASTY) >= 5


def test_page_says_what_is_absent_and_defines_every_metric() -> None:
    text = page(evaluation())
    words = "\n".join(Page(text).texts)
    assert "LPIPS: not computed, no weight file given" in words
    assert "note picture" in words and "scenes drawn from are 3" in words
    for metric in WEIGHT_FREE:
        assert metric.definition in words and metric.label in words
    for title in ("all: 3 pictures", "x100: 2 pictures", "x250: 1 pictures", "group picture"):
        assert title in words


def test_best_means_and_clear_differences_are_bold() -> None:
    bold = Page(page(evaluation(images=7))).bold
    # Means .63 and .53 over seven images, and also in both ratios and the one group: three
    # metrics with four decimals want more, GMSD less.
    assert bold.count("0.6300") == 4 * 3 and bold.count("0.5300") == 4 * 1
    assert "+0.1000" in bold
    # Five scenes that agree may do so by chance.
    assert "+0.1000" not in Page(page(evaluation(images=5))).bold


def test_infinite_and_missing_values_are_shown_and_not_drawn(tmp_path: Path) -> None:
    rows = [
        Score("a", route, "a", None, None,
              {m.key: math.inf if m.key == "psnr_rgb" else None for m in WEIGHT_FREE})
        for route in ("A", "B")
    ]  # fmt: skip
    found = Evaluation("t", Scores(tuple(rows)), Ruler(WEIGHT_FREE), (), {})
    write_report(tmp_path, found)
    words = Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts
    assert "∞" in words and "–" in words and "+0.00" in words


def test_a_route_whose_first_mean_is_infinite_is_named_in_the_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One perfect picture makes the mean over all infinite, but not that of the other ratio."""
    named: list[str] = []
    monkeypatch.setattr(
        Axes, "legend", lambda axes, **_: named.extend(axes.get_legend_handles_labels()[1])
    )
    rows = [
        Score(f"a{ratio:g}", "A", "a", ratio, None, {"psnr_rgb": value})
        for ratio, value in ((100.0, math.inf), (250.0, 30.0))
    ]
    save_plot(tmp_path / "p.png", Scores(tuple(rows)), WEIGHT_FREE[0])
    assert named == ["A"]


def test_an_older_report_is_kept_unless_overwritten(tmp_path: Path) -> None:
    write_report(tmp_path, evaluation())
    before = (tmp_path / "index.html").read_bytes()
    with pytest.raises(OutputError, match=r"index.html exists already"):
        check_report(tmp_path, WEIGHT_FREE, 1, overwrite=False)
    with pytest.raises(OutputError, match="exists already"):
        write_report(tmp_path, evaluation(name="new"))
    assert (tmp_path / "index.html").read_bytes() == before
    write_report(tmp_path, evaluation(name="new"), overwrite=True)
    assert b"<h1>new</h1>" in (tmp_path / "index.html").read_bytes()


def test_check_sees_older_plots_and_sheets_too(tmp_path: Path) -> None:
    for name in ("plots/gmsd_y.png", "sheets/0002.png"):
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        with pytest.raises(OutputError, match=name):
            check_report(folder, WEIGHT_FREE, 2, overwrite=False)


def test_sheet_holds_every_picture_and_its_middle() -> None:
    truth = np.zeros((640, 960, 3), np.float32)
    truth[320:] = 1.0
    red = np.zeros_like(truth)
    red[..., 0] = 1.0
    sheet = build_sheet("a", None, {"ours": red}, truth)
    assert sheet.columns == ("ours", "truth")
    height, width, _ = sheet.pixels.shape
    assert width == 2 * 320 and height == 24 + 213 + 4 + 320
    assert sheet.pixels[100, 160].tolist() == [255, 0, 0]
    middle = sheet.pixels[24 + 213 + 4 :, 320:]
    assert middle[159, 100].tolist() == [0, 0, 0] and middle[160, 100].tolist() == [255] * 3


def test_sheets_of_one_size_for_all_columns_and_small_pictures() -> None:
    small = np.full((12, 40, 3), 0.5, np.float32)
    assert build_sheet("a", 2.0, {"x": small, "y": small}, small).pixels.shape[1] == 3 * 320


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(3, 5, {0, 1, 2}), (5, 0, set()), (5, 1, {0}), (9, 3, {0, 4, 8}), (0, 3, set())],
)
def test_sheets_are_spread_evenly(count: int, limit: int, expected: set[int]) -> None:
    assert chosen_sheets(count, limit) == expected
