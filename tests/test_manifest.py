"""The manifest: what is written is read back, what is wrong is named, and the command says what it did."""

import hashlib
import os
import re

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
    assert list(frame.columns) == [*COLUMNS, "path", "row"]
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


def test_ages_of_0_and_120_are_allowed(tmp_path):
    rows = ["a.png,p1,,train,1,,,,,,,,0,,,", "b.png,p2,,train,1,,,,,,,,120,,,"]
    assert read_manifest(_write(tmp_path / "m.csv", rows))["age"].tolist() == [0, 120]


def test_other_columns_and_a_byte_order_mark_are_no_obstacle(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(f"note,{HEADER}\nx,{ROWS[0]}\n", encoding="utf-8-sig")
    frame = read_manifest(path)
    assert list(frame.columns) == [*COLUMNS, "path", "row"]
    assert frame.loc[0, "image"] == "a.png"


def test_rows_count_as_a_text_editor_does_and_are_not_written(tmp_path):
    # An empty line behind the first row; the third has two lines.
    path = _write(tmp_path / "m.csv", [ROWS[0], "", *ROWS[1:]])
    frame = read_manifest(path)
    assert frame["row"].dtype.kind == "i"
    assert frame["row"].tolist() == [2, 4, 5, 7]
    assert select_split(frame, "test")["row"].tolist() == [5, 7]
    write_manifest(frame.iloc[1:], tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text(encoding="utf-8").startswith(f"{HEADER}\n")
    assert read_manifest(tmp_path / "again.csv")["row"].tolist() == [2, 3, 5]


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
        ("x.png,p9,,train,1,,,,,,,,-1,,,", "row 7: age should be from 0 to 120 years or empty. Received: '-1'"),
        ("x.png,p9,,train,1,,,,,,,,121,,,", "row 7: age should be from 0 to 120 years or empty. Received: '121'"),
        ("x.png ,p9,,train,1,,,,,,,,,,,", "row 7: image should have no white space around it. Received: 'x.png '"),
        ("x.png,p1 ,,test,1,,,,,,,,,,,", "row 7: patient should have no white space around it. Received: 'p1 '"),
        ("x.png,p9,\tc,train,1,,,,,,,,,,,", "row 7: source should have no white space around it."),
        ("x.png,p9,, train,1,,,,,,,,,,,", "row 7: split should have no white space around it. Received: ' train'"),
        ("a.png,p9,,train,1,,,,,,,,,,,", "row 7: image 'a.png' is the same file as that of row 2; list it once"),
        ("./a.png,p9,,train,1,,,,,,,,,,,", "row 7: image './a.png' is the same file as that of row 2"),
        (
            "x/../sub//b.png,p9,,train,1,,,,,,,,,,,",
            "row 7: image 'x/../sub//b.png' is the same file as that of row 3",
        ),
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
    with pytest.raises(ValueError, match=r"row 1: the columns \['covid', 'sex'\] are there more than once"):
        read_manifest(_write(tmp_path / "m.csv", [f"{row},0,F" for row in ROWS], f"{HEADER},covid,sex"))
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
    with pytest.raises(
        ValueError, match=r"m\.csv was not written: image 'a\.png' of patient 'p1': covid should be"
    ):
        write_manifest(frame.assign(covid=[7, 0, 0, 1]), path)
    with pytest.raises(ValueError, match=r"\['age'\], which the frame lacks"):
        write_manifest(frame.drop(columns="age"), path)
    assert path.read_bytes() == before


def test_errors_while_writing_name_image_and_patient_as_there_are_no_rows_yet(tmp_path):
    frame = read_manifest(_write(tmp_path / "m.csv"))
    for wrong, message in (
        (
            frame.assign(patient=["p1", "p1", "p3", "p4"]),
            "image 'sub/b.png' of patient 'p1': patient 'p1' is in split 'validation' here and in 'train' in"
            " image 'a.png' of patient 'p1'; a patient",
        ),
        (
            frame.assign(path=[frame["path"][i] for i in (0, 1, 2, 0)]),
            "image 'a.png' of patient 'p4': image 'a.png' is the same file as that of image 'a.png' of patient"
            " 'p1'; list it once",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            write_manifest(wrong, tmp_path / "new.csv")
        assert str(error.value).startswith(f"{tmp_path / 'new.csv'} was not written: ")
        assert "row" not in str(error.value).removeprefix(str(tmp_path))
    assert not (tmp_path / "new.csv").exists()


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


def _papers(text: str) -> list[list[str]]:
    """The lines below `Source papers in more than one split`, word by word."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Source papers in more than one split:"))
    return [line.split() for line in lines[start : lines.index("", start)]]


def test_command_lists_papers_in_more_than_one_split(tmp_path, folders, capsys):
    d0, d1 = folders
    # D0's image of kjr-21-e24 goes to the test split; D1's patient of most images, that paper, goes to training.
    tables = [d0 / "la-dnn" / name for name in ("train_meta.csv", "test_meta.csv")]
    training, test = (table.read_text(encoding="utf-8") for table in tables)
    row = "kjr-21-e24-p2-8.png,CVD19,,,,,\n"
    tables[0].write_text(training.replace(row, ""), encoding="utf-8")
    tables[1].write_text(test + row, encoding="utf-8")
    frame = _run(tmp_path, f"--covid_ct={d0}", f"--ladnn_d1={d1}")
    assert frame["split"][frame["source"] == "ladnn_d1/kjr-21-e24"].tolist() == ["train", "train"]
    head, _, columns, *papers = _papers(capsys.readouterr().out)
    assert (head[-1], columns) == ("2", ["images:", "train", "validation", "test"])
    assert papers == [["1", "0", "1", "20040782"], ["2", "0", "1", "kjr-21-e24"]]


@pytest.mark.parametrize("seed", range(5))
def test_command_splits_by_source_over_both_datasets(tmp_path, folders, capsys, seed):
    d0, d1 = folders
    frame = _run(tmp_path, f"--covid_ct={d0}", f"--ladnn_d1={d1}", "--split=source", f"--seed={seed}")
    for paper, images in (("kjr-21-e24", 3), ("20040782", 2)):
        splits = frame["split"][frame["source"].str.endswith(f"/{paper}")]
        assert (len(splits), splits.nunique()) == (images, 1)
    assert [line[-1] for line in _papers(capsys.readouterr().out)] == ["0"]


def test_command_says_that_near_duplicates_of_phantoms_are_not_looked_for(tmp_path, phantoms, folders, capsys):
    _run(tmp_path, f"--covid_ct={phantoms}")
    text = capsys.readouterr().out
    assert "Images in two splits: 0\n  Near-duplicates are not looked for among phantoms" in text
    assert "Source papers in more than one split: 0" in text
    _run(tmp_path, f"--covid_ct={folders[0]}")
    assert "phantoms" not in capsys.readouterr().out


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


SITE = [
    "a.png,p1,site,train,1,,,,,,Bilateral GGO without consolidation,,,,,",
    "b.png,p2,site,test,0,,,,,,Consolidation,,,,,",
    "c.png,p3,site,validation,0,,,,,,The lungs are clear.,normal,,,,",
    "d.png,p4,site,train,1,,,,,,No pleural effusion.,,,,,",
    "e.png,p5,site,train,1,,,,,,,,,,,",
    "f.png,p6,site,train,1,1,,0,,,Consolidation and crazy paving,,,,,",
]


def test_command_fills_lesions_of_an_own_manifest_from_its_reports(tmp_path, capsys):
    own = _write(tmp_path / "site.csv", SITE)
    frame = _run(tmp_path, f"--own={own}", "--lesions_from_reports", "--noduplicates")
    assert frame[list(LESIONS)].fillna(-1).astype(int).to_numpy().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [-1, -1, -1, -1, -1],
        [-1, -1, -1, -1, -1],
        [1, 1, 0, 0, 0],  # GGO and CrPa were there, and stay although the report contradicts both
    ]
    text = capsys.readouterr().out
    assert "filled in 4 images" in text
    # Three images without any label, and one that lacked Csld, AirBr and InSepThi.
    assert "GGO 1 / 2, Csld 2 / 2, CrPa 0 / 3, AirBr 0 / 4, InSepThi 0 / 4" in text
    assert "1 of these images are no COVID-19" in text
    assert "left unknown: 1 images: no report\n  left unknown: 1 images: the report names none" in text
    assert (
        "contradict the report (kept): 2\n    f.png (p6): GGO is 1, the report says 0\n    f.png (p6): CrPa"
        in text
    )
    assert "Table 1" not in text
    assert read_manifest(own)[list(LESIONS)].notna().sum().sum() == 2
    unfilled = _run(tmp_path, f"--own={own}", "--noduplicates")
    assert unfilled[list(LESIONS)].notna().sum().sum() == 2
    assert "from reports" not in capsys.readouterr().out


@pytest.mark.parametrize("split", ["patient", "source"])
def test_a_new_split_is_stratified_by_the_lesions_that_reports_tell(tmp_path, split):
    # Three of twelve patients have a crazy paving, and only their reports say so: one for each split.
    rows = [
        f"{i}.png,p{i},site/paper{i},train,1,,,,,,{'Crazy paving' if i % 4 == 0 else 'Bilateral GGO'},,,,,"
        for i in range(12)
    ]
    own = str(_write(tmp_path / "site.csv", rows))
    for seed in range(10):
        built = manifest.build_manifest(
            None, None, split=split, seed=seed, fix_labels=False, own=own, lesions_from_reports=True
        )
        paved = built.rows[built.rows["CrPa"] == 1]
        assert sorted(paved["split"]) == ["test", "train", "validation"]
        assert built.filling.filled == 12


def test_command_joins_an_own_manifest_with_a_dataset(tmp_path, folders):
    own = _write(tmp_path / "site.csv", SITE)
    frame = _run(tmp_path, f"--own={own}", f"--covid_ct={folders[0]}", "--noduplicates")
    assert len(frame) == 7 + 6
    assert frame["split"][7:].tolist() == ["train", "test", "validation", "train", "train", "train"]
    assert frame["path"][7] == str(tmp_path / "a.png")


def test_an_own_manifest_is_not_overwritten_and_its_errors_name_the_row(tmp_path, capsys):
    own = _write(tmp_path / "site.csv", SITE)
    before = own.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["manifest", f"--own={own}", f"--out={tmp_path / 'x' / '..' / 'site.csv'}"])
    assert stop.value.code == 2
    assert "are the same file" in capsys.readouterr().err
    assert own.read_bytes() == before
    wrong = _write(tmp_path / "wrong.csv", [*SITE, "g.png,p7,site,train,7,,,,,,,,,,,"])
    with pytest.raises(ValueError, match=r"wrong\.csv, row 8: covid should be"):
        main(["manifest", f"--own={wrong}", f"--out={tmp_path / 'm.csv'}"])


def test_published_labels_stay_and_silent_captions_leave_lesions_unknown(tmp_path, shared_data, capsys):
    arguments = [f"--covid_ct={shared_data / 'covid-ct'}", "--noduplicates"]
    plain = _run(tmp_path, *arguments)
    filled = _run(tmp_path, *arguments, "--lesions_from_reports")
    known = plain[list(LESIONS)].notna()
    assert plain[list(LESIONS)].where(known).equals(filled[list(LESIONS)].where(known))
    controls = filled[filled["image"].str.contains(r"p24-111%[6-9]\.png")]
    assert len(controls) == 4
    assert controls[list(LESIONS)].isna().all().all()
    assert "4 images: the caption describes several controls" in capsys.readouterr().out
