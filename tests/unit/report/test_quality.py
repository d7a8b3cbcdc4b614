"""The section on data: it says what the gates and tables hold, escapes what it quotes, and stands without them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from synthpost_dagster.artifacts.explanation import Explanation, ReasonCount
from synthpost_dagster.artifacts.manifest import Manifest, Plan
from synthpost_dagster.artifacts.store import ArtifactStore, Draft
from synthpost_dagster.report import quality_figures
from synthpost_dagster.report.data_quality import (
    Coverage,
    DataQuality,
    Memorised,
    Replies,
    SharedRun,
    coverage_of,
    longest_runs,
    memorised_of,
    replies_of,
    rows_compared,
    supervised_of,
)
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.quality_views import MAX_CHECKS_WITH_ROWS, heat, marked, shortened
from synthpost_dagster.report.texts import METRIC_NAMES
from synthpost_dagster.report.variety import Change, history
from synthpost_dagster.rows.diversity import IS_MORE_BETTER
from synthpost_dagster.schemas import METRICS
from synthpost_dagster.stages.data_quality import MAX_RUNS, _runs
from synthpost_dagster.stages.page_inputs import _earlier
from tests.helpers.reports import FIGURES, HOSTILE, NAN, A, B, Reader, big_report, gate, quality, report, run, varied

LEAK = "1 of 88 training rows name a holdout product"


def section(data: DataQuality) -> str:
    page = render_page(report(quality=data))
    return page[page.index('<section id="data">') : page.index('<section id="training">')]


def text_of(**fields: object) -> str:
    return Reader(section(quality(**fields))).text


@pytest.fixture(scope="module")
def whole() -> str:
    return section(quality())


@pytest.mark.usefixtures("no_drawing")
def test_section_is_in_the_navigation_before_training() -> None:
    page = render_page(report())
    assert '<a href="#data">Data</a>' in page
    assert page.index('id="criteria"') < page.index('id="data"') < page.index('id="training"')


def test_every_record_is_on_the_page_with_its_figures(whole: str) -> None:
    text = Reader(whole).text
    for words in (
        "Schema Prompts passed 88 rows follow the schema",
        "Supervised tokens Adapters, 88 rows | 50 steps passed 40.0% of 9000 tokens are learned",
        "distinct-2 88 0.512 0.460 to 0.580",
        "commonest opening 88 3.0 % 1.0 % to 4.0 %",
        "self-BLEU 88 31.0 not drawn",
        "1 2026-11-03 10:00 teacher-model 1,760 0.200 0.520",
        "2 this report 2026-11-05 10:00 teacher-model 1,760 0.200 0.520",
        "Promotional 22 of 22 20 of 22",
        "Question 22 of 22 0 of 22",
        "meet the lamp that warms 4",
        "placeholder 3",
        "88 rows | 50 steps 9 4.5 1 of 100",
        "88 rows | 50 steps 88 9,000 40 % 0",
        "Meet the lamp.<|end|>",
    ):
        assert words in text, words


@pytest.mark.usefixtures("no_drawing")
def test_failed_checks_come_first_and_blocking_ones_before_warnings() -> None:
    gates = (
        gate(),
        gate("synthetic_rows", name="openings", is_passed=False, is_blocking=False, message="3 openings"),
        gate("data_subsets", "1760", name="duplicates", is_passed=False, message="2 of 1760 posts repeat another"),
    )
    found = section(quality(gates=gates))
    text = Reader(found).text
    blocks, warns = (
        text.index(words)
        for words in (
            "Duplicates Data subsets, 1,760 rows blocks 2 of 1760",
            "Openings Synthetic rows warning 3 openings",
        )
    )
    assert blocks < warns < text.index("1 check passed") < text.index("88 rows follow the schema")
    assert '<span class="tag bad">blocks</span>' in found


@pytest.mark.usefixtures("no_drawing")
def test_failed_check_tells_cause_reasons_and_examples_in_both_places() -> None:
    why = Explanation(
        cause="5 of 6 rejected replies were cut off at teacher.sampling.max_new_tokens (320); raise it",
        reasons=(ReasonCount(reason="truncated", count=5, remedy=""), ReasonCount(reason="empty", count=1, remedy="")),
        examples=(f"“{HOSTILE}”",),
    )
    failed = gate("data_subsets", "88", name="factor_coverage", is_passed=False, message="9 strata", explanation=why)
    data = quality(gates=(gate(), failed))
    page = render_page(replace(report(), quality=data))
    text = Reader(page).text
    assert f"data_subsets 88: {why.cause}." in text.partition("Can the figures be trusted?")[0]
    for found in (text.partition("Can the figures be trusted?")[0], Reader(section(data)).text):
        assert why.cause in found
        assert "reasons: 5 truncated, 1 empty" in found
        assert "example: “" in found
    assert HOSTILE not in page


@pytest.mark.usefixtures("no_drawing")
def test_rows_at_fault_are_shown_and_escaped_wherever_texts_are_quoted() -> None:
    rows = ({"product": "Lamp", "reason": "", "post": HOSTILE},)
    data = quality(
        gates=(
            gate(name="duplicates", is_passed=False, message=f"bad: {HOSTILE}", offending=rows),
            gate(
                name="leakage",
                is_passed=False,
                offending=({"leaked_item": HOSTILE, "shared": "7", "post": HOSTILE},),
            ),
        ),
        coverage=Coverage(1, (HOSTILE,), (HOSTILE,), (HOSTILE,), {}, {(HOSTILE, HOSTILE): 1}),
        replies=Replies(1, 0, ((HOSTILE, 1),), ((HOSTILE, 1),), ((HOSTILE, 1),)),
        shared=(SharedRun(A, HOSTILE, 2, "script alert", HOSTILE, HOSTILE),),
        supervised=tuple(one._replace(sample=HOSTILE) for one in quality().supervised),
        runs=tuple(one._replace(teacher=HOSTILE) for one in quality().runs),
    )
    page = render_page(report(quality=data))
    read = Reader(page)
    assert "1 row at fault product: Lamp post: </script><script>alert(1)</script>" in read.text
    assert "reason:" not in read.text
    assert len(read.scripts) == 2
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert "49" not in Reader(section(data)).text
    assert "<mark>script&gt;alert</mark>(1)" in page


@pytest.mark.usefixtures("no_drawing")
def test_only_failed_checks_list_rows_up_to_a_limit() -> None:
    rows = tuple({"post": f"row {number}"} for number in range(10))
    passed = gate("predictions", "88|50", name="memorisation", is_blocking=False, offending=rows)
    assert "row 0" not in text_of(gates=(passed,))
    bad = tuple(gate("data_subsets", str(size), is_passed=False, offending=rows) for size in range(1, 31))
    text = text_of(gates=bad)
    assert text.count("The first 10 rows at fault") == MAX_CHECKS_WITH_ROWS
    assert text.count("Its rows are in the artifact's manifest.") == 30 - MAX_CHECKS_WITH_ROWS


@pytest.mark.parametrize(
    ("figures", "worse"),
    [
        ({"distinct_2": (0.4, 0.42, 0.01)}, (Change("distinct_2", 0.52, 0.42),)),
        ({"opening_share": (0.06, 0.06, 0.001)}, (Change("opening_share", 0.025, 0.06),)),
        ({"distinct_2": (0.4, 0.5, 0.01)}, ()),
        ({"distinct_2": (0.7, 0.7, 0.01)}, ()),
        ({"compression_ratio": (2.0, 2.0, 0.1)}, ()),
        ({"distinct_2": (0.4, 0.42, 0.05)}, ()),
        ({"self_bleu": (90.0, NAN, NAN)}, ()),
    ],
)
def test_only_a_drop_beyond_chance_is_a_change(figures: dict[str, Any], worse: tuple[Change, ...]) -> None:
    found = history([run(3), run(5, is_present=True, **figures)])
    assert (found.rows, found.is_comparable, found.worse) == (88, True, worse)


def test_drop_is_against_the_run_before_and_no_other() -> None:
    low, high = {"distinct_1": (0.1, 0.1, 0.005)}, {"distinct_1": (0.3, 0.3, 0.005)}
    dropped = history([run(1, **low), run(3, **high), run(5, is_present=True, **low)])
    steady = history([run(1, **high), run(3, **low), run(5, is_present=True, **low), run(7, **high)])
    assert (len(dropped.worse), len(steady.worse)) == (1, 0)


@pytest.mark.usefixtures("no_drawing")
def test_first_run_and_runs_without_draws_are_not_compared() -> None:
    alone = history([run(5, is_present=True)])
    assert alone.before is None
    assert "Variety of each run" not in text_of(runs=(run(5, is_present=True),))
    undrawn = dict.fromkeys(FIGURES, (0.5, NAN, NAN))
    found = history([run(3, **undrawn), run(5, is_present=True, **undrawn)])
    assert not found.is_comparable


@pytest.mark.usefixtures("no_drawing")
def test_a_page_without_any_measurement_renders_and_says_so() -> None:
    some = quality()
    text = Reader(section(DataQuality(runs=some.runs, memorised=some.memorised, supervised=some.supervised))).text
    assert text.lower().count("not measured") == 3
    assert "0 of 3 replies" in text_of(replies=Replies(3, 0, (), (), ()))


@pytest.mark.usefixtures("no_drawing")
def test_a_subset_that_is_worse_than_its_draws_is_marked() -> None:
    low = {88: varied(distinct_2=(0.4, 0.52, 0.01)), 176: varied(176, 176, compression_ratio=(2.0, 3.3, 0.1))}
    found = section(quality(subsets=low))
    assert "distinct-2 88 0.400 worse 0.490 to 0.550" in Reader(found).text
    assert found.count('<span class="tag warning">worse') == 1, "more variety than the draws is no fault"


@pytest.mark.usefixtures("no_drawing")
def test_a_leak_is_shown_once_though_it_is_in_two_subsets() -> None:
    row = {"holdout_product": "Aurora", "shared": "aurora lamp", "prompt_id": "1", "post": "Buy the AURORA, lamp!"}
    gates = tuple(
        gate("data_subsets", n, name="leakage", is_passed=False, message=LEAK, offending=(row,)) for n in "89"
    )
    found = section(quality(gates=gates))
    assert found.count("<mark>AURORA, lamp</mark>!") == 1
    assert "Data subsets, 8 rows: 1 of 88 training rows name a holdout product." in Reader(found).text
    assert "No training row" not in found


@pytest.mark.parametrize(
    ("text", "run_of_words", "pieces"),
    [
        ("Hi! Meet the LAMP, that is.", "meet the lamp", ("Hi! ", "Meet the LAMP", ", that is.")),
        ("a a b", "a b", ("a ", "a b", "")),
        ("Straße & ÉTÉ", "strasse été", ("", "Straße & ÉTÉ", "")),
        ("İzmir lamp", "i̇zmir lamp", ("", "İzmir lamp", "")),
        ("cut before", "the run", ("cut before", "", "")),
        ("", "", ("", "", "")),
    ],
)
def test_a_run_is_found_whatever_its_case_and_punctuation(
    text: str, run_of_words: str, pieces: tuple[str, ...]
) -> None:
    assert tuple(marked(text, run_of_words)) == pieces


def test_long_posts_are_cut_around_the_run() -> None:
    cut = shortened(marked("before " * 5_000 + "the run" + " after" * 5_000, "the run"))
    assert cut.run == "the run"
    assert cut.before.startswith("… before") and cut.after.endswith("after …")
    assert len("".join(cut)) < 600
    assert len(shortened(marked("word " * 5_000, "lamp")).before) < 1_300
    assert len("".join(shortened(marked("x" * 9_000 + " run " + "y" * 9_000, "run")))) < 600


@pytest.mark.usefixtures("no_drawing")
def test_seeds_are_named_where_there_are_several() -> None:
    text = text_of(memorised=(Memorised(A, 1, 10, 4, 2.0, 0), Memorised(A, 7, 10, 5, 2.0, 0)))
    assert "88 rows | 50 steps | seed 1 4 2 0 of 10 88 rows | 50 steps | seed 7 5 2 0 of 10" in text


@pytest.mark.usefixtures("no_drawing")
def test_the_page_of_a_full_sweep_grows_by_little() -> None:
    cells = [one.cell.key for one in big_report(1).training]
    rows = tuple({"post": "x" * 300, "near_post": "y" * 300, "product": "Lamp"} for _ in range(10))
    data = quality(
        gates=tuple(
            gate("predictions", f"{key}|{seed}", name=name, is_passed=False, message="m" * 150, offending=rows)
            for key in cells
            for seed in (1, 2, 3)
            for name in ("schema", "memorisation", "personal_data")
        ),
        replies=quality().replies,
        shared=tuple(SharedRun(A, "Lamp", 2, "a lamp", "a lamp " * 9_000, "a lamp " * 9_000) for _ in range(5)),
    )
    assert len(section(data)) < 400_000


def test_tables_of_the_section_have_scopes_and_headings_are_in_order(whole: str) -> None:
    elements = Reader(whole).elements
    heads = [given for tag, given in elements if tag == "th"]
    assert heads and all(given.get("scope") in ("row", "col") for given in heads)
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[2-6]", tag)]
    assert levels[0] == 2
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    summaries = [tag for tag, _ in elements if tag in ("details", "summary")]
    assert summaries == ["details", "summary"] * (len(summaries) // 2)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_pictures_name_sizes_runs_and_metrics_and_are_the_same_each_time() -> None:
    drawn = quality_figures.variety({88: varied(vendi=(12.0, NAN, NAN)), 17600: varied(17600, 17600)})
    for word in ("17,600", "Distinct-2 ▲", "Compression ratio ▼", "Vendi score ▲", "worse than the draws", "4 %"):
        assert word in texts(drawn), word
    runs = quality_figures.earlier_runs([run(3), run(5, is_present=True)])
    assert "this report's" in texts(runs)
    assert "Vendi score ▲" not in texts(runs)
    assert runs == quality_figures.earlier_runs([run(3), run(5, is_present=True)])


@pytest.mark.parametrize("draw", [lambda: quality_figures.variety({}), lambda: quality_figures.earlier_runs(())])
def test_a_picture_of_nothing_says_so(draw: Callable[[], str]) -> None:
    assert texts(draw()) == ["Variety was not measured."]


def test_replies_are_counted_by_opening_reason_and_cleaning() -> None:
    posts = ["Meet the lamp that warms you.", "Meet the LAMP, that warms us!", "Buy it.", "", ""]
    table = pd.DataFrame(
        {
            "post": posts,
            "status": ["kept", "kept", "kept", "rejected", "rejected"],
            "reason": ["", "", "", "empty", "empty"],
            "stripped": ["", "quotes", "", "", ""],
        }
    )
    openings = (("meet the lamp that warms", 2), ("buy it", 1))
    assert replies_of(table) == Replies(5, 3, openings, (("empty", 2),), (("quotes", 1),))


def test_coverage_names_strata_that_are_missing_and_those_nobody_asked_for() -> None:
    strata = [("One", "Calm"), ("One", "Calm"), ("Odd", "Calm")]
    found = coverage_of(("post_type", "tone"), strata, 4, {("One", "Calm"): 2, ("One", "Witty"): 2})
    assert (found.lines, found.columns) == (("One", "Odd"), ("Calm", "Witty"))
    assert (found.found[("One", "Calm")], found.found[("Odd", "Calm")]) == (2, 1)
    assert [heat(2, 2), heat(0, 2), heat(1, 0)] == ["heat2", "heat-3", "heat0"]


@pytest.mark.parametrize(
    ("stratum", "place"),
    [((), ("all", "all")), (("One",), ("all", "One")), (("One", "Calm", "short"), ("One × Calm", "short"))],
)
def test_coverage_is_a_table_for_any_number_of_factors(stratum: tuple[str, ...], place: tuple[str, str]) -> None:
    found = coverage_of([f"factor{at}" for at, _ in enumerate(stratum)], [stratum], 1, {stratum: 1})
    assert ((found.lines, found.columns), found.found) == (((place[0],), (place[1],)), {place: 1})


def test_memorised_posts_are_counted_and_longest_runs_listed_once() -> None:
    table = pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c"],
            "post_words": [4, 9, 0],
            "shared_words": [4, 2, 0],
            "shared": ["the whole short post", "the lamp", ""],
            "training_post": ["The whole short post.", "See the lamp.", ""],
        }
    )
    assert memorised_of(A, 1, table) == Memorised(A, 1, 3, 4, 2.0, 1)
    posts = pd.DataFrame(
        {"prompt_id": ["a", "b"], "product": "Lamp", "post": ["The whole, short post", "Buy the lamp"]}
    )
    runs = longest_runs([(A, table, posts), (B, table, posts)], ["product"])
    assert [(one.about, one.words, one.tuned) for one in runs] == [
        ("Lamp", 4, posts["post"][0]),
        ("Lamp", 2, posts["post"][1]),
    ]


def test_supervision_counts_rows_that_teach_nothing_or_not_when_to_stop() -> None:
    table = pd.DataFrame(
        {
            "tokens": [10, 10, 10],
            "supervised_tokens": [5, 0, 5],
            "is_end_supervised": [True, False, False],
            "learned": ["", "Hi.<|end|>", ""],
        }
    )
    found = supervised_of(A, 1, table)
    assert (found.tokens, found.learned_tokens, found.untaught, found.sample) == (30, 10, 2, "Hi.<|end|>")
    assert found.share == pytest.approx(1 / 3)
    assert math.isnan(found._replace(tokens=0, learned_tokens=0).share)


def test_comparable_runs_of_the_storage_are_listed_once_per_content(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "storage", tmp_path)

    def made(name: str, content: int, diversity: pd.DataFrame) -> Manifest:
        def make(draft: Draft) -> None:
            draft.table("synthetic_rows", pd.DataFrame({"content": [content]}))
            draft.table("diversity", diversity)

        return store.reuse_or_make(Plan("synthetic_rows", "", {"teacher": {"model": name}}), make).manifest

    made("fewer rows", 2, varied(40, 88))
    made("elsewhere", 3, varied(176, 176))
    made("first", 4, varied(1760, 88))
    made("same again", 4, varied(1760, 88))
    present = made("present", 5, varied(8800, 88))
    made("of another profile", 6, varied(88, 88))
    study: Any = SimpleNamespace(resolver=store)

    def runs(of: Manifest) -> tuple[Any, ...]:
        return _runs(store, of, _earlier(study, of))

    found = runs(present)
    assert [one.teacher for one in found] == ["same again", "present", "of another profile"]
    assert [one.is_present for one in found] == [False, True, False]
    for number in range(MAX_RUNS):
        made(f"later {number}", 100 + number, varied(1760, 88))
    assert len(runs(present)) == MAX_RUNS
    assert [one.is_present for one in runs(present)].count(True) == 1


def test_a_run_of_fewer_rows_is_compared_at_those() -> None:
    assert [rows_compared(varied(rows, 88)) for rows in (40, 88, 1760)] == [40, 88, 88]
    assert rows_compared(varied()[:0]) == 0


def test_every_metric_has_a_name_and_a_better_side() -> None:
    assert list(METRIC_NAMES) == list(IS_MORE_BETTER) == list(METRICS)
