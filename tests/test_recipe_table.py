"""The Markdown table of a study of recipes: means over seeds, spread, the difference to a set, files that are none."""

import pytest

from benchmarks import recipe, recipe_table
from bssan_tf.errors import UserError

HEAD = [
    "name", "seeds", "minutes", "i2t R@1/5/10", "Med r", "t2i R@1/5/10", "Med r", "rsum", "w2r_rsum", "o2w_rsum",
]  # fmt: skip


def write_study(path, *rows):
    """A study's CSV of rows (name, seed, minutes, i2t R@1, rsum, w2r_rsum); their other figures are all alike."""
    for name, seed, minutes, recall, rsum, w2r in rows:
        others = {"i2t_R@5": 50, "i2t_R@10": 60, "i2t_MedR": 6, "t2i_R@1": 21, "t2i_R@5": 51, "t2i_R@10": 61.5}
        figures = {"minutes": minutes, "i2t_R@1": recall, **others, "t2i_MedR": 5.4, "rsum": rsum, "w2r_rsum": w2r}
        recipe.append(path, {"name": name, "flags": "--any", "seed": seed, **figures})
    return path


@pytest.fixture
def study(tmp_path):
    """Seeds of two sets in turns, and the CCA's row, which has no parts."""
    return write_study(
        tmp_path / "study.csv",
        ("cca", 0, 0.2, 17, 241.3, ""),
        ("a|b", 0, 8, 20, 250, 240),
        ("plain", 0, 8, 20, 255, 240),
        ("a|b", 1, 9, 23, 260, 246),
        ("a|b", 2, 10, 20, 252, 240),
    )


def rows_of(text):
    """The cells of each line of the Markdown table, the head first."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert set(lines[1]) == set("|-")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def test_a_line_a_set_with_the_mean_over_its_seeds(study, capsys):
    recipe.main(["--table", str(study)])
    text = capsys.readouterr().out
    head, *rows = rows_of(text)
    assert head == HEAD
    assert rows == [
        ["cca", "1", "0.2", "17.0 / 50.0 / 60.0", "6.0", "21.0 / 51.0 / 61.5", "5.4", "241.3", "", ""],
        [
            r"a\|b", "3", "9.0", "21.0 / 50.0 / 60.0", "6.0", "21.0 / 51.0 / 61.5", "5.4", "254.0 ± 5.0", "242.0", "",
        ],
        ["plain", "1", "8.0", "20.0 / 50.0 / 60.0", "6.0", "21.0 / 51.0 / 61.5", "5.4", "255.0", "240.0", ""],
    ]  # fmt: skip
    assert "half the distance between the lowest and the highest" in text.split("|")[0]


def test_a_further_column_is_the_difference_to_a_set(study, capsys):
    recipe.main(["--table", str(study), "--against", "a|b"])
    head, *rows = rows_of(capsys.readouterr().out)
    assert head == [*HEAD, r"rsum less a\|b"]
    assert [row[-1] for row in rows] == ["-12.7", "+0.0", "+1.0"]
    with pytest.raises(UserError, match=r"--against none: .*study.csv has no such set; it has cca, a\|b, plain"):
        recipe.main(["--table", str(study), "--against", "none"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,seed,minutes\na,0,1\n", "lacks the columns i2t_R@1, i2t_R@5, .*o2w_rsum; is it the CSV of a study"),
        ("", "lacks the columns name, seed"),
        (",".join(recipe.COLUMNS), "has no rows"),
        (",".join(recipe.COLUMNS) + "\na,,0,soon", "row 1: minutes: 'soon' is no number"),
        (",".join(recipe.COLUMNS) + "\na,,0,1,,,,1", "row 1: i2t_R@5: '' is no number"),
        (",".join(recipe.COLUMNS) + "\na,,0,nan", "row 1: minutes: 'nan' is no number"),
        (",".join(recipe.COLUMNS) + "\na,,0,1,,,,1,-inf", "row 1: i2t_R@5: '-inf' is no number"),
        ("\xff", "cannot be read"),
    ],
)
def test_files_that_are_no_studies_are_refused(tmp_path, content, message):
    path = tmp_path / "study.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        recipe.main(["--table", str(path)])


def test_a_table_of_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none.csv: cannot be read \(No such file or directory\)"):
        recipe.main(["--table", str(tmp_path / "none.csv")])


def test_a_study_does_not_go_on_in_a_file_that_is_none(tmp_path):
    sets, path = tmp_path / "sets.txt", tmp_path / "study.csv"
    sets.write_text("a: --seed 0")
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match="lacks the columns name, seed"):
        recipe.main([str(sets), "--csv", str(path)])
    assert path.read_text() == "epoch,loss\n1,2\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give SETS.txt or --table"),
        (["sets.txt", "--table", "study.csv"], "give SETS.txt or --table"),
        (["sets.txt", "--against", "a"], "--against: only with --table"),
    ],
)
def test_a_study_and_a_table_are_two_calls(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        recipe.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_figure_that_some_seeds_lack_is_left_blank(tmp_path):
    path = write_study(tmp_path / "study.csv", ("a", 0, 1, 20, 250, 240), ("a", 1, 1, 20, 250, ""))
    (line,) = rows_of(recipe_table.markdown(recipe_table.read_rows(path), path))[1:]
    assert line[7:] == ["250.0 ± 0.0", "", ""]
