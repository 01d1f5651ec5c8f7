"""The manifest: what is written is read back, what is wrong is named, and the command says what it did."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from tiny_covid_ct import write_covid_ct, write_image, write_ladnn_d1

from ladnn_tf.data import manifest
from ladnn_tf.data.manifest import COLUMNS, main, read_manifest, select_split, write_manifest
from ladnn_tf.labels import LESIONS

HEADER = ",".join(COLUMNS)
ROWS = [
    "a.png,p1,covid_ct/1,train,1,1,0,,,,A report,covid19,41,M,,",
    "sub/b.png,p2,covid_ct/medpix,validation,0,,,,,,,,,,,",
    'c.png,p3,ladnn_d1/luna16,test,0,,,,,,"two\nlines",nodule,,F,s1,12',
    "d.png,p4,,test,1,,,,,,,,,,,",
]


def _write(path, rows=ROWS, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_columns_are_in_the_published_order():
    assert HEADER == (
        "image,patient,source,split,covid,GGO,Csld,CrPa,AirBr,InSepThi,report,diagnosis,age,sex,series,slice_index"
    )


def test_a_manifest_is_read_with_types_paths_and_hash(tmp_path):
    path = _write(tmp_path / "m.csv")
    frame = read_manifest(path)
    assert list(frame.columns) == [*COLUMNS, "path"]
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame["covid"].tolist() == [1, 0, 0, 1]
    assert frame["covid"].dtype.kind == "i"
    assert frame.loc[0, list(LESIONS)].fillna(-1).tolist() == [1, 0, -1, -1, -1]
    for column in (*LESIONS, "age", "slice_index"):
        assert frame[column].dtype == np.float64
    assert (frame.loc[0, "age"], frame.loc[2, "slice_index"]) == (41, 12)
    assert frame.loc[1, "report"] == ""
    assert frame.loc[2, "report"] == "two\nlines"
    assert frame.loc[1, "path"] == str(tmp_path / "sub" / "b.png")
    assert frame.attrs["path"] == str(path)
    assert frame.attrs["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_columns_and_a_byte_order_mark_are_no_obstacle(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(f"note,{HEADER}\nx,{ROWS[0]}\n", encoding="utf-8-sig")
    frame = read_manifest(path)
    assert list(frame.columns) == [*COLUMNS, "path"]
    assert frame.loc[0, "image"] == "a.png"


def test_written_and_read_again_nothing_changes(tmp_path):
    frame = read_manifest(_write(tmp_path / "m.csv"))
    write_manifest(frame, tmp_path / "again.csv")
    again = read_manifest(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(frame, again)
    assert again.attrs["sha256"] == frame.attrs["sha256"]


def test_images_are_relative_to_the_manifest_so_that_both_can_move(tmp_path):
    write_image(tmp_path / "old" / "data" / "a.png", seed=1)
    frame = read_manifest(_write(tmp_path / "old" / "data" / "m.csv", ROWS[:1]))
    write_manifest(frame, tmp_path / "old" / "new folder" / "m.csv")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = read_manifest(tmp_path / "new" / "new folder" / "m.csv")
    assert moved.loc[0, "image"] == "../data/a.png"
    assert moved.loc[0, "path"] == str(tmp_path / "new" / "data" / "a.png")


def test_a_linked_folder_of_the_manifest_leads_to_the_images(tmp_path):
    write_image(tmp_path / "data" / "a.png", seed=1)
    frame = read_manifest(_write(tmp_path / "data" / "m.csv", ROWS[:1]))
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    write_manifest(frame, tmp_path / "link" / "m.csv")
    for folder in (tmp_path / "link", tmp_path / "far" / "away"):
        read = read_manifest(folder / "m.csv")
        assert read.loc[0, "image"] == "../../data/a.png"
        assert os.path.samefile(read.loc[0, "path"], tmp_path / "data" / "a.png")


def test_images_and_manifest_below_one_link_can_still_move(tmp_path):
    write_image(tmp_path / "true" / "data" / "a.png", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "true")
    frame = read_manifest(_write(tmp_path / "true" / "data" / "m.csv", ROWS[:1]))
    frame["path"] = str(tmp_path / "link" / "data" / "a.png")
    write_manifest(frame, tmp_path / "true" / "out" / "m.csv")
    assert read_manifest(tmp_path / "true" / "out" / "m.csv").loc[0, "image"] == "../data/a.png"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.png,p9,,training,1,,,,,,,,,,,", "row 7: split should be one of train, validation, test. Received"),
        ("x.png,p9,,train,2,,,,,,,,,,,", "row 7: covid should be one of 0, 1. Received: '2'"),
        ('x.png,p9,,train,2,,,,,,"two\nlines",,,,,', "row 7: covid should be one of 0, 1. Received: '2'"),
        ("x.png,p9,,train,,,,,,,,,,,,", "row 7: covid should be one of 0, 1. Received: ''"),
        ("x.png,p9,,train,1,0.5,,,,,,,,,,", "row 7: GGO should be one of 0, 1, empty. Received: '0.5'"),
        ("x.png,p9,,train,1,,,,,,,flu,,,,", "row 7: diagnosis should be one of"),
        ("x.png,p9,,train,1,,,,,,,,old,,,", "row 7: age should be a number or empty. Received: 'old'"),
        ("x.png,p9,,train,1,,,,,,,,inf,,,", "row 7: age should be a number or empty. Received: 'inf'"),
        ("x.png,p9,,train,1,,,,,,,,,W,,", "row 7: sex should be one of F, M, empty"),
        (",p9,,train,1,,,,,,,,,,,", "row 7: image is empty"),
        ("x.png,,,train,1,,,,,,,,,,,", "row 7: patient is empty"),
        ("x.png,p9,train", "row 7: 3 cells; the header has 16"),
        ("a.png,p9,,train,1,,,,,,,,,,,", "row 7: image 'a.png' is listed in row 2 already"),
        ("x.png,p1,,test,1,,,,,,,,,,,", "row 7: patient 'p1' is in split 'test' here and in 'train' in row 2"),
    ],
)
def test_a_wrong_row_is_named_as_a_text_editor_counts(tmp_path, row, message):
    # The third record has two lines, so that the fifth begins in line 7.
    path = _write(tmp_path / "m.csv", [*ROWS, row])
    with pytest.raises(ValueError, match=message) as error:
        read_manifest(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_manifest_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file; expected a manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"row 1: the columns \['age'\] are missing"):
        read_manifest(_write(tmp_path / "m.csv", header=HEADER.replace(",age,", ",years,")))
    with pytest.raises(ValueError, match="lists no images"):
        read_manifest(_write(tmp_path / "m.csv", rows=[]))
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="a manifest is UTF-8"):
        read_manifest(tmp_path / "m.csv")
    long_cell = ROWS[0].replace("A report", "x" * 140_000)
    with pytest.raises(ValueError, match="row 2: not a CSV file: field larger than"):
        read_manifest(_write(tmp_path / "m.csv", rows=[long_cell]))


def test_a_wrong_frame_leaves_the_old_file_as_it_was(tmp_path):
    path = _write(tmp_path / "m.csv")
    before = path.read_bytes()
    frame = read_manifest(path)
    with pytest.raises(ValueError, match="row 2: covid should be"):
        write_manifest(frame.assign(covid=[7, 0, 0, 1]), path)
    with pytest.raises(ValueError, match=r"\['age'\], which the frame lacks"):
        write_manifest(frame.drop(columns="age"), path)
    assert path.read_bytes() == before


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    path = _write(tmp_path / "m.csv")
    before = path.read_bytes()

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(manifest.Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_manifest(read_manifest(path).iloc[:1], path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]
    assert path.read_bytes() == before


def test_select_split(tmp_path):
    frame = read_manifest(_write(tmp_path / "m.csv"))
    test = select_split(frame, "test")
    assert test["image"].tolist() == ["c.png", "d.png"]
    assert test.index.tolist() == [0, 1]
    assert test.attrs == frame.attrs
    with pytest.raises(ValueError, match=r"one of train, validation, test\. Received: 'val'"):
        select_split(frame, "val")
    with pytest.raises(ValueError, match=r"m\.csv has no rows in split 'test'"):
        select_split(read_manifest(_write(tmp_path / "m.csv", ROWS[:2])), "test")


@pytest.fixture
def folders(tmp_path):
    d0, d1 = write_covid_ct(tmp_path / "covid-ct"), write_ladnn_d1(tmp_path / "la-dnn-d1")
    # A third D1 patient: three splits need three.
    write_image(d1 / "lung_nodules_luna16_95397.png", seed=6)
    return d0, d1


def _run(folder, *arguments) -> pd.DataFrame:
    out = folder / "manifest.csv"
    assert main(["manifest", f"--out={out}", *arguments]) == 0
    return read_manifest(out)


def test_command_reads_both_datasets_and_reports(tmp_path, folders, capsys):
    d0, d1 = folders
    frame = _run(tmp_path, f"--covid_ct={d0}", f"--ladnn_d1={d1}")
    assert len(frame) == 7 + 4
    assert frame["image"][0] == "covid-ct/images/CT_COVID/2020.03.22.20040782-p25-1542.png"
    assert all(os.path.isfile(path) for path in frame["path"])
    assert frame["split"][:7].tolist() == ["train"] * 3 + ["validation"] * 2 + ["test"] * 2
    text = capsys.readouterr().out
    assert "Rows mended: 10" in text
    assert (
        "  2 in la-dnn/COVID-CT-MetaInfo_new.csv: the name lacks .png: appended\n    row 3    kjr-21-e24" in text
    )
    assert "Rows refused: 1\n  1 in la-dnn/val_meta.csv: no such image" in text
    assert "Images in two splits: 0" in text
    lines = {line[:15].strip(): line.split() for line in text.splitlines() if line.startswith("D")}
    assert lines["D0 positive"][2:10] == ["4", "(4)", "2", "(2)", "1", "(1)", "1", "(1)"]
    assert lines["D0 positive"][10:] == ["345", "(212)", "187", "(126)", "60", "(32)", "98", "(54)"]
    assert lines["D0 negative"][2:10] == ["3", "(3)", "1", "(1)", "1", "(1)", "1", "(1)"]
    assert lines["D1 positive"][2:4] == ["2", "(1)"]
    assert lines["D1 positive"][10:] == ["219", "(57)", "-", "-", "-"]
    assert lines["D0+D1 positive"][2:4] == ["6", "(5)"]
    assert "D1 has no published split: its patients were split" in text
    assert f"11 images in {tmp_path / 'manifest.csv'}\nSHA-256 {frame.attrs['sha256']}" in text


def test_command_counts_lesions_and_says_where_none_can_be_measured(tmp_path, folders, capsys):
    _run(tmp_path, f"--covid_ct={folders[0]}")
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Lesions:"))
    # In training the lesions of one image are known: GGO and AirBr.
    cells = " ".join(lines[start + 2].split())
    assert cells == "train 1 / 0 n/a 0 / 1 n/a 0 / 1 n/a 1 / 0 n/a 0 / 1 n/a"
    assert not any(line.startswith("D1") for line in lines)


@pytest.mark.parametrize("split", ["paper", "patient", "source"])
def test_command_reads_d1_alone(tmp_path, folders, split):
    frame = _run(tmp_path, f"--ladnn_d1={folders[1]}", f"--split={split}")
    assert set(frame["split"]) == {"train", "validation", "test"}
    assert frame.groupby("patient")["split"].nunique().max() == 1


def test_command_reports_duplicates_and_contradictions(tmp_path, folders, capsys):
    images = folders[0] / "images"
    positive = images / "CT_COVID" / "2020.03.26.20040782-p1-2.png"  # in test
    negative = images / "CT_NonCOVID" / "91%1.png"  # in training
    negative.write_bytes(positive.read_bytes())
    _run(tmp_path, f"--covid_ct={folders[0]}")
    text = capsys.readouterr().out
    assert "Images in two splits: 1\n  exact, 0 of 255 bits differ, and their labels contradict each other" in text
    _run(tmp_path, f"--covid_ct={folders[0]}", "--noduplicates")
    assert "two splits" not in capsys.readouterr().out


def test_command_line_errors(tmp_path, folders, capsys):
    for argv, message in (
        (["--out=m.csv"], "give --covid_ct, --ladnn_d1 or both"),
        ([f"--covid_ct={folders[0]}"], "--out must have a value"),
        ([f"--covid_ct={folders[0]}", "--out=m.csv", "--split=random"], "paper|patient|source"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["manifest", *argv])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="la-dnn-d1 does not hold COVID-CT"):
        main(["manifest", f"--covid_ct={folders[1]}", f"--out={tmp_path / 'm.csv'}"])
    assert not (tmp_path / "m.csv").exists()


def test_build_manifest_refuses_what_flags_would_have(folders):
    with pytest.raises(ValueError, match="no dataset was given"):
        manifest.build_manifest(None, None, split="paper", seed=0, fix_labels=False)
    with pytest.raises(ValueError, match="Received: 'random'"):
        manifest.build_manifest(str(folders[0]), None, split="random", seed=0, fix_labels=False)


def test_real_data_end_to_end(tmp_path, shared_data, capsys):
    arguments = [f"--covid_ct={shared_data / 'covid-ct'}", f"--ladnn_d1={shared_data / 'la-dnn-d1'}"]
    frame = _run(tmp_path, *arguments, "--noduplicates")
    assert len(frame) == 746 + 9
    text = capsys.readouterr().out
    assert "D0 positive        349 (213)   191 (129)     60 (31)     98 (53)     345 (212)" in text
    assert "D0 negative        397 (171)   234 (105)     58 (24)    105 (42)     401 (175)" in text
    fixed = _run(tmp_path, *arguments, "--noduplicates", "--fix_labels")
    assert (frame["covid"].sum(), fixed["covid"].sum()) == (349, 344)
    assert fixed["split"].equals(frame["split"])
    assert "5 in images: a control by its caption" in capsys.readouterr().out
