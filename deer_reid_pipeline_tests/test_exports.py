"""CSV files: whole or not at all, and harmless in a spreadsheet."""

from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.exports import RESULT_COLUMNS, write_results
from deer_reid_pipeline_tests.sites import read_table


def test_columns_numbers_and_absent_values(tmp_path: Path) -> None:
    write_results(tmp_path / "out" / "r.csv", [{"filePath": "a.jpg", "bboxX": 0.125, "similarity": 1 / 3}])
    row = read_table(tmp_path / "out" / "r.csv")[0]
    assert tuple(row) == RESULT_COLUMNS
    assert (row["filePath"], row["bboxX"], row["similarity"], row["individualID"]) == ("a.jpg", "0.125", "0.333333", "")


def test_no_rows_give_a_table_with_its_columns(tmp_path: Path) -> None:
    write_results(tmp_path / "r.csv", [])
    assert (tmp_path / "r.csv").read_text().strip() == ",".join(RESULT_COLUMNS)


@pytest.mark.parametrize("name", ["=1+1", "@cmd", "+A1", "-A1"])
def test_a_name_is_never_a_formula(tmp_path: Path, name: str) -> None:
    write_results(tmp_path / "r.csv", [{"filePath": "a.jpg", "individualID": name}])
    assert read_table(tmp_path / "r.csv")[0]["individualID"] == f"'{name}"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeerReidError, match="cannot be written"):
        write_results(tmp_path / "file" / "r.csv", [])
