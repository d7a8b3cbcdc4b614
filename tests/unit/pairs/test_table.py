"""Files of pairs are read as the text they hold, and what is wrong with one is named by its place."""

from __future__ import annotations

import codecs
import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.labels import Meaning
from synthpost_dagster.pairs.table import PairsTable, Repair, game_outcomes, missing, outcomes, read_pairs, repairs
from synthpost_dagster.statistics.ratio import Counts, count

TUNED = Meaning("finetuned", "baseline")


def written(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def read(folder: Path, text: str, label_column: str | None = None) -> PairsTable:
    return read_pairs(written(folder, text), label_column)


def mistake(path: Path, label_column: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        read_pairs(path, label_column)
    return str(caught.value).removeprefix(f"{path}: ")


def test_labels_posts_and_factors_are_recognised(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "pair_id,prompt,baseline,candidate,label,tone,judge\n"
        "p1,Sell tea,Buy tea,Tea!,finetuned,Witty,llama\n"
        "p2,Sell mugs,Buy mugs,Mugs!,baseline,Calm,llama\n",
    )
    assert table.has_posts
    assert table.label_column == "label"
    assert table.factors == ("tone",)
    assert table.ignored == ("judge",)
    assert table.rows["candidate"].tolist() == ["Tea!", "Mugs!"]
    assert table.rows["pair_id"].tolist() == ["p1", "p2"]


def test_posts_alone_are_to_be_judged(tmp_path: Path) -> None:
    table = read(tmp_path, "prompt,baseline,candidate\nSell tea,Buy tea,Tea!\n")
    assert (table.has_posts, table.label_column) == (True, None)
    with pytest.raises(ValueError, match="no labels"):
        outcomes(table, game_outcomes(table, TUNED))


def test_labels_alone_are_enough_and_rows_are_numbered(tmp_path: Path) -> None:
    table = read(tmp_path, "label\nfinetuned\nbaseline\n")
    assert (table.has_posts, table.label_column) == (False, "label")
    assert table.rows["pair_id"].tolist() == ["1", "2"]


def test_named_label_column_comes_before_the_usual_one(tmp_path: Path) -> None:
    table = read(tmp_path, "label,verdict\nx,finetuned\ny,baseline\n", "verdict")
    assert table.label_column == "verdict"
    assert table.ignored == ("label",)
    assert outcomes(table, game_outcomes(table, TUNED))["outcome"].tolist() == ["win", "loss"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_separators_line_ends_and_a_byte_order_mark_do_not_matter(
    tmp_path: Path, separator: str, mark: str, line_end: str
) -> None:
    header = ["pair_id", '"label, raw; as said"', "label"]
    lines = [header, ["1", '"a, b; c"', "finetuned"], ["2", '""', '"base;line,"']]
    table = read(tmp_path, mark + line_end.join(separator.join(fields) for fields in lines) + line_end)
    assert table.rows.columns.tolist() == ["pair_id", "label, raw; as said", "label"]
    assert table.rows["label"].tolist() == ["finetuned", "base;line,"]
    assert table.rows["label, raw; as said"].tolist() == ["a, b; c", ""]


def test_values_stay_text(tmp_path: Path) -> None:
    table = read(tmp_path, "pair_id,label\n007,NA\n1.50,None\n1e3,null\n+4,nan\n5,\n6,TRUE\n")
    assert table.rows["label"].tolist() == ["NA", "None", "null", "nan", "", "TRUE"]
    assert table.rows["pair_id"].tolist() == ["007", "1.50", "1e3", "+4", "5", "6"]
    found = outcomes(table, game_outcomes(table, Meaning("NA", "None", "null")))
    assert found["outcome"].tolist() == ["win", "loss", "tie", "unscored", "unscored", "unscored"]


def test_quotes_line_breaks_and_odd_characters_in_a_field_stay(tmp_path: Path) -> None:
    label = '"finetuned"\nThe post, "in short", sells 🎉 \0 \u202eمرحبا'
    quoted = label.replace('"', '""')
    table = read(tmp_path, f'label,size\n"{quoted}",S\nbaseline,M\n')
    assert table.rows["label"].tolist() == [label, "baseline"]
    assert outcomes(table, game_outcomes(table, TUNED))["outcome"].tolist() == ["win", "loss"]


def test_field_may_be_longer_than_pythons_own_limit(tmp_path: Path) -> None:
    table = read(tmp_path, f"label\nfinetuned: {'x' * 200_000}\n")
    assert outcomes(table, game_outcomes(table, TUNED))["outcome"].tolist() == ["win"]


def test_empty_line_is_an_empty_label_in_a_file_of_one_column(tmp_path: Path) -> None:
    assert read(tmp_path, "label\nfinetuned\n\nbaseline\n\n\n").rows["label"].tolist() == ["finetuned", "", "baseline"]
    assert len(read(tmp_path, "label,x\nfinetuned,1\n\nbaseline,1\n").rows) == 2


def test_factor_has_2_to_30_values(tmp_path: Path) -> None:
    rows = "".join(f"finetuned,{row % 2},{row % 30},{row % 31},same,{row}\n" for row in range(31))
    table = read(tmp_path, "label,two,thirty,thirty-one,one,\n" + rows)
    assert table.factors == ("two", "thirty")
    assert table.ignored == ("thirty-one", "one", "(column 6)")


def test_columns_without_a_name_are_numbered(tmp_path: Path) -> None:
    assert read(tmp_path, ",label,\n1,finetuned,x\n2,baseline,y\n").ignored == ("(column 1)", "(column 3)")


def test_column_that_differs_within_a_pair_is_no_factor(tmp_path: Path) -> None:
    text = "pair_id,label,order,tone\n1,finetuned,first,Witty\n1,finetuned,second,Witty\n2,baseline,first,Calm\n"
    table = read(tmp_path, text)
    assert (table.factors, table.ignored) == (("tone",), ("order",))


def test_columns_of_the_outcomes_are_no_factors(tmp_path: Path) -> None:
    table = read(tmp_path, "verdict,outcome\nfinetuned,x\nbaseline,y\n", "verdict")
    assert table.ignored == ("outcome",)


def test_games_that_share_an_id_are_one_pair(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "pair_id,label,tone\n"
        "both,finetuned,Witty\nsplit,finetuned,Witty\nlost,baseline,Calm\nalone,finetuned,Calm\nhalf,finetuned,Calm\n"
        "both, Finetuned,Witty\nsplit,baseline,Witty\nlost,baseline,Calm\nhalf,?,Calm\n"
        "three,finetuned,Calm\nthree,tie,Calm\nthree,finetuned,Calm\n",
    )
    found = outcomes(table, game_outcomes(table, TUNED))
    assert found.columns.tolist() == ["pair_id", "outcome", "label", "tone"]
    assert found.values.tolist() == [
        ["both", "win", "finetuned /  Finetuned", "Witty"],
        ["split", "tie", "finetuned / baseline", "Witty"],
        ["lost", "loss", "baseline / baseline", "Calm"],
        ["alone", "win", "finetuned", "Calm"],
        ["half", "unscored", "finetuned / ?", "Calm"],
        ["three", "tie", "finetuned / tie / finetuned", "Calm"],
    ]


def test_studys_best_cell_read_from_a_file(tmp_path: Path) -> None:
    labels = ["finetuned"] * 80 + ["baseline"] * 11 + ['"finetuned"'] + ['"baseline"'] * 3
    path = tmp_path / "cell.csv"
    pd.DataFrame({"label": labels}).to_csv(path, index=False)
    table = read_pairs(path)
    assert count(outcomes(table, game_outcomes(table, TUNED))["outcome"]) == Counts(81, 14, 0, 0)
    assert count(outcomes(table, game_outcomes(table, TUNED, is_strict=True))["outcome"]) == Counts(80, 11, 0, 4)
    assert repairs(table, game_outcomes(table, TUNED)) == [
        Repair('"baseline"', "loss", 3, "quotes, case or spaces"),
        Repair('"finetuned"', "win", 1, "quotes, case or spaces"),
    ]
    assert [repair.how for repair in repairs(table, game_outcomes(table, TUNED, is_strict=True))] == [
        "not exact",
        "not exact",
    ]


def test_repairs_include_unscored_labels(tmp_path: Path) -> None:
    table = read(tmp_path, "label,x\nfinetunde,1\n,1\nfinetuned,1\nfinetuned/baseline,1\n,1\n")
    assert repairs(table, game_outcomes(table, TUNED)) == [
        Repair("", "unscored", 2, "no label"),
        Repair("finetunde", "win", 1, "misspelt"),
        Repair("finetuned/baseline", "unscored", 1, "names both"),
    ]


def test_labels_that_read_alike_are_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "label\nA\n")
    with pytest.raises(SpecError, match="--win 'A' and --loss 'a' read alike"):
        outcomes(table, game_outcomes(table, Meaning("A", "a")))


def test_parquet_becomes_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    columns = {
        "pair_id": [7, None, 9],
        "label": ["NA", None, "finetuned"],
        "is_long": [True, False, None],
        "score": [1.0, float("nan"), 2.5],
        "raw": [b"gr\xc3\xbcn", b"", None],
        "day": [datetime.date(2026, 1, 2)] * 3,
    }
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SpecError, match="the column 'pair_id' is empty in row 2 below the column names"):
        read_pairs(path)
    pq.write_table(pa.table(columns | {"pair_id": [7, 8, 9]}), path)
    assert read_pairs(path).rows.values.tolist() == [
        ["7", "NA", "True", "1.0", "grün", "2026-01-02"],
        ["8", "", "False", "", "", "2026-01-02"],
        ["9", "finetuned", "", "2.5", "", "2026-01-02"],
    ]


def test_missing_post_differs_from_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    columns = {"prompt": ["p", None, "p", "p"], "baseline": ["b", None, "", "b"], "candidate": ["", "c", "c", None]}
    pq.write_table(pa.table(columns), path)
    table = read_pairs(path)
    assert missing(table) == {"2": "prompt missing", "4": "post missing"}
    assert table.rows["candidate"].tolist() == ["", "c", "c", None]
    assert table.rows["baseline"].tolist() == ["b", None, "", "b"]


def test_empty_field_of_a_csv_file_is_a_missing_post(tmp_path: Path) -> None:
    table = read(tmp_path, 'prompt,baseline,candidate,tone\np,b,,\n,b,c,Calm\np,"",c,Calm\np,b, ,Calm\n')
    assert missing(table) == {"1": "post missing", "2": "prompt missing", "3": "post missing"}
    assert table.rows["tone"].tolist() == ["", "Calm", "Calm", "Calm"]


def test_labels_need_no_posts(tmp_path: Path) -> None:
    assert missing(read(tmp_path, "label\nfinetuned\n")) == {}


def test_index_that_pandas_wrote_is_no_factor(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": ["finetuned", "baseline"]}, index=["x", "y"])
    frame.to_parquet(tmp_path / "pairs.parquet")
    frame.to_csv(tmp_path / "pairs.csv")
    assert read_pairs(tmp_path / "pairs.parquet").ignored == ("(column 2)",)
    assert read_pairs(tmp_path / "pairs.csv").ignored == ("(column 1)",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("label,tone\n", ["no rows"]),
        ("label,tone,tone\nx,y,z\n", ["'tone'", "label, tone, tone"]),
        (
            "verdict,prompt,candidate,\nx,y,z,\n",
            ["'label'", "prompt, baseline, candidate", "--label-column", "verdict, prompt, candidate, one without"],
        ),
        ('label,note\nx,"two\nlines"\ntuned, it has a hook,z\n', ["line 4 has 3 fields", "2"]),
        ("label,note\nx\n", ["line 2 has 1 fields", "2"]),
        ("pair_id,label\n1,x\n ,y\n", ["'pair_id'", "row 2"]),
    ],
)
def test_error_of_a_file_names_place_and_values(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = mistake(written(tmp_path, text))
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("field", ['"tuned" it has a hook', '"tuned'])
def test_quotes_that_do_not_close_a_field_are_named_by_line(tmp_path: Path, field: str) -> None:
    path = written(tmp_path, f"pair_id,label\n1,tuned\n2,{field}\n")
    message = mistake(path)
    assert message.startswith("not valid CSV at line 3 (")
    assert message.endswith('; put a field that holds quotes in quotes, and double those inside ("")')


def test_label_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "label,tone\nx,y\n")
    message = mistake(path, "verdict")
    assert [part for part in ("'verdict'", "label, tone") if part not in message] == []


def test_file_that_is_not_utf_8_is_named_by_byte_and_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(codecs.BOM_UTF8 + b"label,tone\ntuned,gr\xfcn\n")
    assert mistake(path) == "not UTF-8 text at byte 22, line 2; save it as UTF-8"
    path.write_bytes("label\ntuned\n".encode("utf-16"))
    assert mistake(path) == "not UTF-8 text at byte 0, line 1; save it as UTF-8"


def test_wrong_kinds_of_files_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    assert "no such file" in mistake(missing)
    sheet = written(tmp_path, "label\nx\n", "pairs.xlsx")
    assert ".csv, .tsv, .parquet, .json or .jsonl" in mistake(sheet)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    assert mistake(folder).startswith("cannot be read (")
    no_parquet = written(tmp_path, "label\nx\n", "pairs.parquet")
    assert mistake(no_parquet).startswith("not a readable parquet file (")
    pq.write_table(pa.table({"label": ["x"]}), tmp_path / "parquet.csv")
    assert mistake(tmp_path / "parquet.csv") == "a parquet file by its content; name it .parquet"
    pq.write_table(pa.table({"label": [b"\xff"]}), tmp_path / "bytes.parquet")
    assert "'label' has bytes" in mistake(tmp_path / "bytes.parquet")
    pq.write_table(pa.table([["x"], ["y"]], names=["label", "label"]), tmp_path / "twice.parquet")
    assert "'label'" in mistake(tmp_path / "twice.parquet")
    pq.write_table(pa.table({"label": pa.array([], pa.string())}), tmp_path / "no_rows.parquet")
    assert mistake(tmp_path / "no_rows.parquet") == "has column names and no rows; add a row for every comparison"
