"""The readers of the published formats, on a tiny copy with all their traps, and on the real files."""

import math

import pandas as pd
import pytest
from tiny_covid_ct import LUNG_CANCER, write_covid_ct, write_image, write_ladnn_d1

from ladnn_tf.data import sources
from ladnn_tf.data.covid_ct import correct_labels, read_covid_ct
from ladnn_tf.data.ladnn_d1 import read_ladnn_d1
from ladnn_tf.data.published_table import Remark, Row, read_labels
from ladnn_tf.labels import LESIONS

ANNOTATION = "la-dnn/COVID-CT-MetaInfo_new.csv"
POSITIVES = "ucsd/COVID-CT-MetaInfo.csv"
NEGATIVES = "ucsd/NonCOVID-CT-MetaInfo.csv"
UUID = "191F3B3A-2879-4EF3-BE56-EE0D2B5AAEE3"
LUNG_CT = "LungCT-Diagnosis"
KJR, PIIS = "kjr-21-e24-p2-8", "PIIS0140673620301549_0%1"


@pytest.fixture
def d0(tmp_path):
    return write_covid_ct(tmp_path / "covid-ct")


@pytest.fixture
def d1(tmp_path):
    return write_ladnn_d1(tmp_path / "la-dnn-d1")


def _row(reading, name):
    rows = reading.rows[reading.rows["image"].str.endswith(f"/{name}")]
    assert len(rows) == 1
    return rows.iloc[0]


def _replace(file, old, new):
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))


def test_d0_row_is_joined_from_all_tables(d0):
    row = _row(read_covid_ct(d0), "2020.03.22.20040782-p25-1542.png")
    assert row["image"] == "images/CT_COVID/2020.03.22.20040782-p25-1542.png"
    assert row["path"] == str(d0 / row["image"])
    assert (row["patient"], row["source"], row["split"]) == (
        "covid_ct/Patient 1",
        "covid_ct/20040782",
        "train",
    )
    assert row["covid"] == 1
    assert row[list(LESIONS)].tolist() == [1, 0, 0, 1, 0]
    assert row["report"] == "A 72–year-old, 3 × 2 cm"  # noqa: RUF001 (the paper's own signs)
    assert (row["diagnosis"], row["age"], row["sex"], row["series"]) == ("covid19", 41, "M", "")
    assert math.isnan(row["slice_index"])


def test_d0_keeps_the_published_split_in_its_order(d0):
    rows = read_covid_ct(d0).rows
    assert rows["split"].tolist() == ["train"] * 3 + ["validation"] * 2 + ["test"] * 2
    assert rows["covid"].tolist() == [1, 1, 0, 1, 0, 1, 0]


def test_d0_lesions_are_unknown_without_any_label(d0):
    reading = read_covid_ct(d0)
    for name in (f"{KJR}.png", "1049.png"):
        assert _row(reading, name)[list(LESIONS)].isna().all()


def test_d0_sources_are_papers_or_archives(d0):
    reading = read_covid_ct(d0)
    # The same preprint under two dates is one source.
    assert _row(reading, "2020.03.26.20040782-p1-2.png")["source"] == "covid_ct/20040782"
    assert _row(reading, f"{KJR}.png")["source"] == "covid_ct/kjr-21-e24"
    assert _row(reading, f"{PIIS}.png")["source"] == "covid_ct/PIIS0140673620301549"


def test_d0_patients_of_negatives_come_from_the_string_identifier(d0):
    reading = read_covid_ct(d0)
    crawled, medpix = _row(reading, "1%0.jpg"), _row(reading, "1049.png")
    assert (crawled["patient"], crawled["source"]) == ("covid_ct/crawled_patient_1", "covid_ct/crawled")
    assert (medpix["patient"], medpix["source"]) == ("covid_ct/medpix_patient_1", "covid_ct/medpix")
    assert medpix["diagnosis"] == ""


def test_d0_names_every_row_that_it_mended_or_refused(d0):
    reading = read_covid_ct(d0)
    no_suffix, white_space = "the name lacks .png: appended", "white space around a cell removed"
    assert reading.mended == [
        Remark(ANNOTATION, 2, "2020.03.22.20040782-p25-1542.png", "encoding: not UTF-8, read as GB18030"),
        Remark(ANNOTATION, 3, KJR, white_space),
        Remark(ANNOTATION, 3, KJR, no_suffix),
        Remark(ANNOTATION, 4, PIIS, no_suffix),
        # The record before it has two lines: a text editor shows this one as row 6.
        Remark(
            ANNOTATION,
            6,
            "2020.03.26.20040782-p1-2.png",
            "the report is no well-formed list: its brackets removed",
        ),
        Remark(POSITIVES, 3, KJR, white_space),
        Remark(POSITIVES, 3, KJR, no_suffix),
        Remark(POSITIVES, 3, f"{KJR}.png", "age '40+' is no number of years: left empty"),
        Remark(POSITIVES, 4, PIIS, no_suffix),
        Remark("la-dnn/train_meta.csv", 4, "91%1.jpg", "the image is there as 91%1.png"),
    ]
    assert reading.refused == [
        Remark("la-dnn/val_meta.csv", 3, "missing.png", "no such image in images/CT_NonCOVID")
    ]


def test_d0_refuses_what_it_cannot_place(d0):
    write_image(d0 / "images" / "CT_NonCOVID" / "unlisted.png", seed=9)
    _replace(d0 / "ucsd" / "NonCOVID-CT-MetaInfo.csv", b"1,91%1.jpg,", b"1,other.jpg,")
    _replace(d0 / "la-dnn" / "test_meta.csv", b"1049.png", b"1%0.jpg")
    assert [(r.file, r.row, r.image, r.reason) for r in read_covid_ct(d0).refused] == [
        ("la-dnn/train_meta.csv", 4, "91%1.jpg", "no patient for it in ucsd/NonCOVID-CT-MetaInfo.csv"),
        ("la-dnn/val_meta.csv", 3, "missing.png", "no such image in images/CT_NonCOVID"),
        ("la-dnn/test_meta.csv", 3, "1%0.jpg", "listed before"),
        ("images/CT_NonCOVID/1049.png", 0, "1049.png", "no split file lists this image"),
        ("images/CT_NonCOVID/91%1.png", 0, "91%1.png", "no split file lists this image"),
        ("images/CT_NonCOVID/unlisted.png", 0, "unlisted.png", "no split file lists this image"),
    ]


@pytest.mark.parametrize(
    ("table", "row", "number", "name"),
    [
        (ANNOTATION, f"{KJR}.png,Patient 2,CVD19,,,,,,", 7, f"{KJR}.png"),
        (POSITIVES, f"{KJR}.png,Patient 2,2,,F", 5, f"{KJR}.png"),  # as the first, whose age is no number
        (NEGATIVES, "9,1049.png,medpix_patient_1,14,1", 5, "1049.png"),
    ],
)
def test_d0_a_row_that_repeats_another_is_mended(d0, table, row, number, name):
    before = read_covid_ct(d0)
    with (d0 / table).open("a", encoding="utf-8") as file:
        file.write(f"{row}\n")
    after = read_covid_ct(d0)
    assert [remark for remark in after.mended if remark not in before.mended] == [
        Remark(table, number, name, "repeats an earlier row of this image: read once")
    ]
    pd.testing.assert_frame_equal(after.rows, before.rows)


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        (
            ANNOTATION,
            f"{KJR},Patient 9,CVD19,,,,,,",
            rf"{ANNOTATION}, row 7: \('Patient 9', ''\) for image {KJR}\.png, but \('Patient 2', ''\) in row 3",
        ),
        (ANNOTATION, f"{KJR},Patient 2,CVD19,,,,,,A report", r"row 7: .* in row 3; keep one of the two rows"),
        (POSITIVES, f"{KJR},Patient 2,2,41,F", r"row 5: \(41, 'F'\) for .*, but \(None, 'F'\) in row 3"),
        (NEGATIVES, "9,1049.png,medpix_patient_2,14,1", "row 5: 'medpix_patient_2' for .* in row 4"),
    ],
)
def test_d0_rows_that_contradict_each_other_are_an_error_that_names_both(d0, table, row, message):
    with (d0 / table).open("a", encoding="utf-8") as file:
        file.write(f"{row}\n")
    with pytest.raises(ValueError, match=message):
        read_covid_ct(d0)


def test_d0_an_age_beyond_the_manifest_s_range_is_left_empty(d0):
    _replace(d0 / POSITIVES, b",1,41,M", b",1,141,M")
    reading = read_covid_ct(d0)
    name = "2020.03.22.20040782-p25-1542.png"
    assert math.isnan(_row(reading, name)["age"])
    assert Remark(POSITIVES, 2, name, "age '141' is no number of years: left empty") in reading.mended


def test_d0_another_suffix_is_not_taken_from_an_image_that_is_listed_itself(d0):
    _replace(d0 / "la-dnn" / "test_meta.csv", b"1049.png,,,,,,\r\n", b"1049.png,,,,,,\r\n1049.jpg,,,,,,\r\n")
    assert Remark("la-dnn/test_meta.csv", 4, "1049.jpg", "no such image in images/CT_NonCOVID") in (
        read_covid_ct(d0).refused
    )


def test_datasets_are_named_once_and_phantoms_as_such():
    frame = pd.DataFrame({"source": ["covid_ct/a", "covid_ct/phantom", "", "ladnn_d1/x/y", "covid_ct/b"]})
    assert sources.datasets(frame) == ("covid_ct", "ladnn_d1", "phantoms")
    assert sources.datasets(frame.iloc[1:3]) == ("phantoms",)


def test_d0_phantoms_have_their_own_source_and_diagnosis(d0):
    write_image(d0 / "images" / "CT_NonCOVID" / "phantom-nodule_7-1.png", seed=9)
    _replace(d0 / "la-dnn" / "test_meta.csv", b"1049.png", b"phantom-nodule_7-1.png")
    _replace(
        d0 / "ucsd" / "NonCOVID-CT-MetaInfo.csv",
        b"1049.png,medpix_patient_1",
        b"phantom-nodule_7-1.png,phantom_patient_7",
    )
    row = _row(read_covid_ct(d0), "phantom-nodule_7-1.png")
    assert (row["patient"], row["source"], row["diagnosis"]) == (
        "covid_ct/phantom_patient_7",
        "covid_ct/phantom",
        "nodule",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b",GGO,,,AirBr,\r\n", b",GGO,,,AirBro,\r\n", r"train_meta\.csv, row 2: unknown label token 'AirBro'"),
        (b",GGO,,,AirBr,\r\n", b",,GGO,,AirBr,\r\n", r"train_meta\.csv, row 2: 'GGO' stands in .* Csld"),
        (b"imgname,CVD19", b"imgname,COVID", r"train_meta\.csv, row 1: expected the columns"),
        (b"91%1.jpg,,,,,,", b"91%1.jpg,,", r"train_meta\.csv, row 4: 3 cells; expected 7"),
    ],
)
def test_d0_a_table_of_another_form_is_an_error_with_file_and_row(d0, old, new, message):
    _replace(d0 / "la-dnn" / "train_meta.csv", old, new)
    with pytest.raises(ValueError, match=message):
        read_covid_ct(d0)


def test_d0_an_empty_table_is_an_error(d0):
    (d0 / "la-dnn" / "val_meta.csv").write_text("imgname,CVD19,GGO,Csld,CrPa,AirBr,InSepThi\n")
    with pytest.raises(ValueError, match=r"val_meta\.csv has no rows"):
        read_covid_ct(d0)


def test_d0_without_any_image_is_an_error_that_says_why(d0):
    for path in d0.rglob("images/*/*"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"not one image could be read\..* la-dnn/train_meta\.csv row 2: .*: no such image in"
    ):
        read_covid_ct(d0)


def test_a_folder_of_another_form_is_an_error_that_names_what_is_expected(tmp_path, d0):
    with pytest.raises(FileNotFoundError, match="no folder; expected one that holds COVID-CT"):
        read_covid_ct(tmp_path / "nowhere")
    (d0 / "la-dnn" / "val_meta.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"la-dnn/val_meta\.csv not found"):
        read_covid_ct(d0)
    with pytest.raises(FileNotFoundError, match="no folder; expected one that holds LA-DNN's own data"):
        read_ladnn_d1(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected one \*_COVIDCT_meta\*\.csv .* found neither"):
        read_ladnn_d1(d0)


def test_d1_images_are_found_in_any_sub_folder_and_refused_by_name(d1):
    reading = read_ladnn_d1(d1)
    assert reading.rows["image"].tolist() == [
        "5.14_covidct/kjr-21-e24-g001-l-b.jpg",
        "5.14_covidct/deeper/kjr-21-e24-g002-l-c.jpg",
        f"5.16_nocovidct/{LUNG_CANCER}",
    ]
    assert reading.rows["split"].tolist() == ["", "", ""]
    assert reading.mended == []
    reason = "no image of this name in the folder or its sub-folders"
    table = "New_NonCOVIDCT_meta(update to 5.18).csv"
    assert reading.refused == [Remark(table, 3, "lung_nodules_luna16_95397.png", reason)]


def test_d1_refuses_ambiguous_and_repeated_names(d1):
    write_image(d1 / "again" / LUNG_CANCER, seed=4)
    table = d1 / "New_COVIDCT_meta(update to 5.18).csv"
    _replace(table, b"kjr-21-e24-g002-l-c.jpg", b"kjr-21-e24-g001-l-b.jpg")
    reasons = [remark.reason for remark in read_ladnn_d1(d1).refused]
    assert reasons[:2] == [
        "listed before",
        f"more than one image of this name: 5.16_nocovidct/{LUNG_CANCER} and again/{LUNG_CANCER}",
    ]


def test_d1_reads_its_own_spelling_of_the_labels(d1):
    first, second, third = (row for _, row in read_ladnn_d1(d1).rows.iterrows())
    assert first[list(LESIONS)].tolist() == [1, 0, 0, 1, 1]  # GGO, Aibr and InSep
    assert second[list(LESIONS)].isna().all()
    assert (first["covid"], second["covid"], third["covid"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "covid", "source", "patient", "slice_index", "diagnosis"),
    [
        ("lungadenocarcinomas_LungCT-Diagnosis_004_30.png", 0, LUNG_CT, f"{LUNG_CT}_004", 30, "cancer"),
        ("Lungsquamouscellcarcinoma_CPTAC-LSCC_00497_24.png", 0, "CPTAC-LSCC", "CPTAC-LSCC_00497", 24, "cancer"),
        ("lung_nodules_luna16_95397.png", 0, "luna16", "luna16_95397", None, "nodule"),
        ("PulmonaryViralPneumonia_10.1148radiol.11092149_18.png", 0, "10.1148radiol.11092149", "", None, "viral"),
        ("H1N1_GTnegTestpos2.jpg", 0, "hku", "hku_H1N1_GTnegTestpos2", None, "viral"),
        ("Bacterial_GTnegTestneg1.jpg", 0, "hku", "hku_Bacterial_GTnegTestneg1", None, "bacterial"),
        ("Lobar_GTnegTestneg2.jpg", 0, "hku", "hku_Lobar_GTnegTestneg2", None, ""),
        ("ImagFiles_GTnegTestneg3.jpeg", 0, "hku", "hku_ImagFiles_GTnegTestneg3", None, ""),
        ("GTposTestneg1.jpg", 1, "hku", "hku_GTposTestneg1", None, "covid19"),
        ("10.1148ryct.2020200196-p23-1.png", 1, "10.1148ryct.2020200196", "", None, "covid19"),
        ("10.1148ryct.2020200196-6.png", 1, "10.1148ryct.2020200196", "", None, "covid19"),
        ("jkms-35-e79-g001-l-d.jpg", 1, "jkms-35-e79", "", None, "covid19"),
        ("1-s2.0-S0929664620300449-gr3_lrg-a.jpg", 1, "1-s2.0-S0929664620300449", "", None, "covid19"),
        ("covid19_10.1016j.ijid.2020.03.042_5.png", 1, "10.1016j.ijid.2020.03.042", "", None, "covid19"),
        ("10.3906.sag.2004.331-14.png", 1, "10.3906.sag.2004.331", "", None, "covid19"),
        (f"{UUID}.jpeg", 1, "covid-chestxray-dataset", UUID, None, "covid19"),
    ],
)  # fmt: skip
def test_d1_origin_is_read_from_the_name(d1, name, covid, source, patient, slice_index, diagnosis):
    write_image(d1 / "more" / name, seed=5)
    _replace(
        d1 / "New_NonCOVIDCT_meta(update to 5.18).csv",
        b"lung_nodules_luna16_95397.png,,",
        f"{name},{'CVD19' if covid else ''},".encode(),
    )
    if name == LUNG_CANCER:
        (d1 / "5.16_nocovidct" / LUNG_CANCER).unlink()
    row = _row(read_ladnn_d1(d1), name)
    # A paper is its own patient: the empty name in the table above.
    assert (row["source"], row["patient"]) == (f"ladnn_d1/{source}", f"ladnn_d1/{patient or source}")
    assert row["diagnosis"] == diagnosis
    assert math.isnan(row["slice_index"]) if slice_index is None else row["slice_index"] == slice_index


def test_labels_of_a_row_by_hand():
    row = Row("train_meta.csv", 2, [])
    covid, lesions = read_labels(row, ["CVD19", "", "Csl", "", "", "InSep"])
    assert covid == 1
    assert lesions == {"GGO": 0, "Csld": 1, "CrPa": 0, "AirBr": 0, "InSepThi": 1}


def test_real_d0_has_the_published_sums(shared_data):
    reading = read_covid_ct(shared_data / "covid-ct")
    rows = reading.rows
    sums = rows.groupby("split")[["covid", *LESIONS]].sum().astype(int)
    assert sums.loc["train"].tolist() == [191, 108, 51, 11, 8, 12]
    assert sums.loc["validation"].tolist() == [60, 37, 10, 0, 0, 0]
    assert sums.loc["test"].tolist() == [98, 66, 18, 4, 3, 0]
    assert rows["split"].value_counts().to_dict() == {"train": 425, "test": 203, "validation": 118}
    patients = rows.groupby(["covid", "split"])["patient"].nunique()
    assert patients[1].to_dict() == {"train": 129, "validation": 31, "test": 53}
    assert patients[0].to_dict() == {"train": 105, "validation": 24, "test": 42}
    assert rows.groupby("patient")["split"].nunique().max() == 1
    positives = rows[rows["covid"] == 1]
    assert positives[list(LESIONS)].isna().all(axis=1).sum() == 111
    assert (rows["report"] != "").sum() == 336
    assert set(rows[rows["source"] == "covid_ct/20040782"]["split"]) == {"train", "validation", "test"}
    assert reading.refused == []
    by_reason = [remark for remark in reading.mended if remark.reason == "the name lacks .png: appended"]
    assert {remark.file for remark in by_reason} == {ANNOTATION, POSITIVES}
    assert len(by_reason) == 2 * 83
    assert Remark("la-dnn/train_meta.csv", 426, "91%1.jpg", "the image is there as 91%1.png") in reading.mended


def test_real_d1_has_nine_images_of_five_patients(shared_data):
    reading = read_ladnn_d1(shared_data / "la-dnn-d1")
    assert len(reading.rows) == 9
    assert reading.rows["patient"].nunique() == 5
    assert len(reading.refused) == 135 + 180 - 9


def test_real_corrections_are_five_controls_who_share_no_patient(shared_data):
    rows = read_covid_ct(shared_data / "covid-ct").rows
    corrected, remarks = correct_labels(rows)
    assert len(remarks) == 5
    changed = corrected[corrected["covid"] != rows["covid"]]
    assert changed["covid"].tolist() == [0] * 5
    assert changed[list(LESIONS)].isna().all(axis=None)
    assert changed["diagnosis"].tolist() == ["bacterial", "cancer", "", "", "normal"]
    assert rows["patient"].isin(changed["patient"]).sum() == 5
    assert rows["covid"].sum() == 349  # the rows given are left as they are
    assert correct_labels(corrected)[1] == []
