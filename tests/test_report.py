"""The reproduction framework, with experiments made up for the purpose."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
import types
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from lowrank_opt import papers
from lowrank_opt.core.errors import ParameterError
from lowrank_opt.papers import Report, Reproduction, Row, Section, Table, draw, pictures
from lowrank_opt.papers.report import format_band, format_seconds, format_value

ENVIRONMENT = {"system": {"processor": "a <fast> one"}, "threads": {"cores": 2}}


def make_report(*sections: Section) -> Report:
    return Report(list(sections), "smoke", 3, 1.5, environment=ENVIRONMENT, commit="abc", notes=[])


@pytest.fixture
def experiments(monkeypatch):
    """Register reproductions: functions by name, in modules that exist only here."""

    def register(**functions):
        entries = {}
        for name, function in functions.items():
            module = types.ModuleType(f"made_up_{name}")
            module.reproduce = function
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries[name] = Reproduction(module.__name__, f"Title of {name}")
        monkeypatch.setattr(papers, "REPRODUCTIONS", entries)

    return register


class TestRow:
    @pytest.mark.parametrize(
        ("ours", "band", "verdict"),
        [
            (1.0, (0.5, 1.5), "within"),
            (0.5, (0.5, 1.5), "within"),
            (1.5, (0.5, 1.5), "within"),
            (0.49, (0.5, 1.5), "out"),
            (1.51, (0.5, 1.5), "out"),
            (1.0, (None, 0.9), "out"),
            (1.0, (None, 1.1), "within"),
            (1.0, (1.1, None), "out"),
            (1.0, (0.9, None), "within"),
            (math.nan, (0.0, 1.0), "out"),
            (math.nan, (None, 1.0), "out"),
            (math.inf, (0.0, None), "within"),
            (1.0, None, "unjudged"),
            ("2 h", None, "unjudged"),
            (None, (0.0, 1.0), "not reproduced"),
        ],
    )
    def test_verdict(self, ours, band, verdict):
        assert Row("r", ours, band=band, note="why").verdict == verdict

    def test_numpy_scalars_become_python_floats(self):
        row = Row("r", np.float32(0.5), paper=np.int64(2), band=(np.float64(0), 1))
        assert type(row.ours) is float
        assert type(row.paper) is float
        assert type(row.band[0]) is float

    def test_missing_value_needs_a_reason(self):
        with pytest.raises(ParameterError, match="needs a note"):
            Row("r", None)

    @pytest.mark.parametrize("band", [(2.0, 1.0), (None, None), (math.nan, 1.0)])
    def test_band_without_values(self, band):
        with pytest.raises(ParameterError, match="holds no values"):
            Row("r", 1.0, band=band)

    def test_text_cannot_be_judged(self):
        with pytest.raises(ParameterError, match="cannot have a band"):
            Row("r", "fast", band=(0, 1))


def test_table_rows_must_fit_the_columns():
    with pytest.raises(ParameterError, match="3 cells for 2 columns"):
        Table(["a", "b"], [[1, 2, 3]])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (3.0, "3"), (0.123456, "0.1235"), (1e9, "1e+09"), ("x", "x"), (math.nan, "nan")],
)
def test_format_value(value, text):
    assert format_value(value) == text


def test_format_with_unit_and_band():
    assert format_value(2.5, "dB") == "2.5 dB"
    assert format_band(Row("r", 1, band=(0, 2))) == "0 … 2"
    assert format_band(Row("r", 1, band=(None, 2))) == "≤ 2"
    assert format_band(Row("r", 1, band=(0.5, None))) == "≥ 0.5"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-5, "20 µs"), (0.0123, "12.3 ms"), (3.456, "3.46 s"), (600, "10 min"), (None, "")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_counts_and_ok():
    good = Section("good", rows=[Row("a", 1, band=(0, 2)), Row("b", 5), Row("c", None, note="no")])
    report = make_report(good)
    assert report.ok
    bad = Section("bad", rows=[Row("d", 9, band=(0, 2))])
    broken = Section("broken", error="Traceback\nValueError: x")
    assert not make_report(good, bad).ok
    assert not make_report(good, broken).ok
    counts = make_report(good, bad, broken).counts
    assert counts == {"within": 1, "out": 1, "unjudged": 1, "not reproduced": 1, "failed": 1}


def test_json_holds_every_row_and_is_strict():
    section = Section(
        "s",
        rows=[Row("a", math.nan, band=(0, 1), paper=math.inf), Row("b", None, note="too large")],
        tables=[Table(["x"], [[np.float64(2.0)]])],
        figures=[pictures({"left": np.zeros((2, 2))}, "caption")],
    )
    data = json.loads(make_report(section).to_json(), parse_constant=pytest.fail)
    rows = data["sections"][0]["rows"]
    assert [row["verdict"] for row in rows] == ["out", "not reproduced"]
    assert (rows[0]["ours"], rows[0]["paper"], rows[1]["ours"]) == ("nan", "inf", None)
    assert rows[1]["note"] == "too large"
    assert data["sections"][0]["tables"][0]["rows"] == [[2.0]]
    assert data["sections"][0]["figures"] == [{"caption": "caption", "images": ["left"]}]
    assert (data["ok"], data["commit"], data["random_state"]) == (False, "abc", 3)
    assert data["environment"] == ENVIRONMENT


class Page(HTMLParser):
    """Collects what a browser would load, and checks that tags are closed in order."""

    void = ("meta", "img", "br", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.open, self.tags = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "srcset", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_file_and_escapes():
    section = Section(
        "a < b",
        "first\n\nsecond & last",
        rows=[
            Row(
                "<i>", 1.0, paper=0.9, peer="<script>", band=(0.8, 1.2), certificate=1e-9, seconds=2
            ),
            Row("gone", None, note="no <data>"),
        ],
        tables=[Table(["<t>"], [["<cell>"]], "<caption>")],
        figures=[pictures({"<l>": np.zeros((2, 3, 3))}, "<f>")],
        reference="<paper>",
        error="Traceback\n<oh>",
    )
    page = make_report(section).to_html()
    parsed = Page(page)
    assert parsed.open == []
    assert all(link.startswith(("data:image/", "#")) for link in parsed.links)
    assert "script" not in parsed.tags
    assert "i" not in parsed.tags
    assert parsed.tags.count("img") == 1
    for text in ("&lt;i&gt;", "no &lt;data&gt;", "&lt;cell&gt;", "a &lt;fast&gt; one", "1.0e-09"):
        assert text in page
    assert "not reproduced" in page
    assert "url(" not in page


def test_terminal_shows_verdicts_reasons_and_tables():
    section = Section(
        "Experiment",
        rows=[
            Row("speed", 1.0, paper=2.0, band=(1.5, None), note="machine was busy"),
            Row("memory", None, note="no counter"),
            Row("fine", 3.0, band=(2, 4), note="not shown"),
        ],
        tables=[Table(["solver", "dB"], [["ours", 31.2]], "All of them")],
    )
    text = make_report(section, Section("b", error="Traceback\nValueError: x")).to_terminal()
    lines = text.splitlines()
    assert any("speed" in line and line.endswith("OUT") for line in lines)
    assert "  ! speed: machine was busy" in lines
    assert "  ! memory: no counter" in lines
    assert "not shown" not in text
    assert "All of them" in text
    assert "31.2" in text
    assert "FAILED: ValueError: x" in text
    assert "peer" not in text  # no row has one


def test_empty_cells_of_tables_are_dashes():
    report = make_report(Section("a", tables=[Table(["plan", "gap"], [["p", None], ["q", 0.5]])]))
    assert '<td class="number">–</td>' in report.to_html()
    assert any(line.split() == ["p", "–"] for line in report.to_terminal().splitlines())


def test_write(tmp_path):
    page, data = make_report(Section("ü")).write(tmp_path / "a" / "b", "name")
    assert page.name == "name.html"
    assert "ü" in page.read_text(encoding="utf-8")
    assert json.loads(data.read_text(encoding="utf-8"))["sections"][0]["title"] == "ü"


def decode_png(data: bytes) -> np.ndarray:
    """Decode what `pictures` writes, by the PNG specification: filter 2 adds the row above."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        chunks[body[:4]] = body[4:]
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    shape = (height, width) if colour == 0 else (height, width, 3)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 2).all()
    return np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8).reshape(shape)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_png_round_trip(shape):
    a = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (image,) = pictures({"a": a}, "").images
    np.testing.assert_array_equal(decode_png(image.data), a)


def test_png_of_floats_is_scaled_and_cut():
    (image,) = pictures({"a": [[0.0, 0.5, 1.0, -3.0, 7.0, np.nan, np.inf]]}, "").images
    np.testing.assert_array_equal(decode_png(image.data), [[0, 128, 255, 0, 255, 0, 255]])


@pytest.mark.parametrize("shape", [(3,), (3, 3, 4), (0, 3)])
def test_picture_of_a_wrong_shape(shape):
    with pytest.raises(ParameterError, match="a picture has shape"):
        pictures({"a": np.zeros(shape)}, "")


def test_draw_gives_svg_for_light_and_dark():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (figure,) = draw(lambda f: f.subplots().plot([1, 2], label="line"), "caption")
    (image,) = figure.images
    assert image.mime == "image/svg+xml"
    for data in (image.data, image.dark):
        assert ET.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
    assert image.data != image.dark
    (again,) = draw(lambda f: f.subplots().plot([1, 2], label="line"), "caption")
    assert again.images[0].data == image.data


def test_without_matplotlib_the_report_says_so(monkeypatch, experiments):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "matplotlib" else find_spec(n)
    )
    experiments(a=lambda scale, random_state: Section("A", figures=draw(pytest.fail, "never")))
    report = papers.reproduce()
    assert report.ok
    assert report.sections[0].figures == []
    assert "lowrank_opt[plot]" in report.to_html()
    assert "lowrank_opt[plot]" in report.to_terminal()


def test_reproduce_survives_a_failing_experiment(experiments):
    def fail(scale, random_state):
        raise ValueError("no luck")

    def work(scale, random_state):
        return [Section("One"), Section(f"Two at {scale} with {random_state}")]

    experiments(first=fail, second=work)
    seen = []
    report = papers.reproduce("all", "medium", random_state=5, progress=seen.append)
    assert not report.ok
    titles = [section.title for section in report.sections]
    assert titles == ["Title of first", "One", "Two at medium with 5"]
    assert [section.title for section in seen] == titles
    assert [section.name for section in report.sections] == ["first", "second", "second"]
    assert "ValueError: no luck" in report.sections[0].error
    assert "no luck" in json.loads(report.to_json())["sections"][0]["error"]


def test_reproduce_survives_a_module_that_cannot_be_imported(monkeypatch):
    entry = Reproduction("lowrank_opt.papers.not_there", "Title")
    monkeypatch.setattr(papers, "REPRODUCTIONS", {"a": entry})
    report = papers.reproduce("a")
    assert not report.ok
    assert "ModuleNotFoundError" in report.sections[0].error


def test_the_title_names_a_single_reproduction(experiments):
    experiments(
        one=lambda scale, random_state: Section("A"), two=lambda scale, random_state: Section("B")
    )
    assert "<title>Reproduction: one</title>" in papers.reproduce("one").to_html()
    assert "<title>Reproductions</title>" in papers.reproduce("all").to_html()


def test_reproduce_fills_in_the_time(experiments):
    experiments(a=lambda scale, random_state: Section("A"))
    report = papers.reproduce("a")
    assert 0 <= report.sections[0].seconds <= report.seconds


def test_reproduce_of_an_unknown_name_or_scale(experiments):
    experiments(a=lambda scale, random_state: Section("A"))
    with pytest.raises(ParameterError, match="choose from: all, a"):
        papers.reproduce("b")
    with pytest.raises(ParameterError, match="smoke, medium, paper"):
        papers.reproduce("a", "huge")


def test_report_knows_the_environment():
    report = Report([], "smoke", 0, 0.0)
    assert {"system", "threads", "blas", "packages"} <= set(report.environment)
    assert report.created.endswith("UTC")
