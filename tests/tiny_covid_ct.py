"""A tiny COVID-CT (D0) and D1 in the published formats, with the published files' traps."""

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = "imgname,CVD19,GGO,Csld,CrPa,AirBr,InSepThi\r\n"
ANNOTATION_HEADER = (
    ",,C0VID19,GGO,consolidation(Csld),Crazy paving appearance(CrPa),air bronchograms(AirBr),"
    "interlobular septal thickening(InSepThi),\n"
)
D1_HEADER = (
    "imgname,CVD19,GGO,consolidation(Csld),Crazy paving appearance(CrPa),air bronchograms(AirBr),"
    "interlobular septal thickening(InSepThi),,Collection date,Sources\r\n"
)
LUNG_CANCER = "Lungsquamouscellcarcinoma_CPTAC-LSCC_00497_24.png"


def write_image(path: Path, seed: int) -> None:
    """Writes a random 40 x 48 grey image; a seed is a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12), dtype=np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((4, 4), dtype=np.uint8))).save(path)


def write_covid_ct(folder: Path) -> Path:
    """Writes four positives of three papers and three negatives, mended or refused as the tests expect."""
    images = {
        "CT_COVID": ("2020.03.22.20040782-p25-1542.png", "2020.03.26.20040782-p1-2.png", "kjr-21-e24-p2-8.png",
                     "PIIS0140673620301549_0%1.png"),
        "CT_NonCOVID": ("1%0.jpg", "91%1.png", "1049.png"),
    }  # fmt: skip
    for kind, names in images.items():
        for number, name in enumerate(names):
            write_image(folder / "images" / kind / name, seed=100 * len(kind) + number)

    for name in ("la-dnn", "ucsd"):
        (folder / name).mkdir()
    (folder / "la-dnn" / "train_meta.csv").write_bytes(
        (
            HEADER + "2020.03.22.20040782-p25-1542.png,CVD19,GGO,,,AirBr,\r\n"
            "kjr-21-e24-p2-8.png,CVD19,,,,,\r\n"
            "91%1.jpg,,,,,,\r\n"
        ).encode()
    )
    (folder / "la-dnn" / "val_meta.csv").write_bytes(
        (
            HEADER
            + "PIIS0140673620301549_0%1.png,CVD19,,Csld,,,InSepThi\r\nmissing.png,,,,,,\r\n1%0.jpg,,,,,,\r\n"
        ).encode()
    )
    (folder / "la-dnn" / "test_meta.csv").write_bytes(
        (HEADER + "2020.03.26.20040782-p1-2.png,CVD19,,,CrPa,,\r\n1049.png,,,,,,\r\n").encode()
    )
    (folder / "la-dnn" / "COVID-CT-MetaInfo_new.csv").write_bytes(
        ANNOTATION_HEADER.encode()
        + b"2020.03.22.20040782-p25-1542.png,Patient 1,CVD19,GGO,,,AirBr,,"
        + b"\"['A 72\xa8Cyear-old, 3 \xa1\xc1 2 cm']\"\n"  # GB18030: a dash and a multiplication sign
        + b"kjr-21-e24-p2-8,Patient 2 ,CVD19,,,,,,\n"
        + b'PIIS0140673620301549_0%1,Patient 3,CVD19,,Csld,,,InSepThi,"Plain text,\nin two lines"\n'
        + b"2020.03.26.20040782-p1-2.png,Patient 4,CVD19,,,CrPa,,,['The model's view']\n"
    )
    (folder / "ucsd" / "COVID-CT-MetaInfo.csv").write_text(
        "File name,Patient ID,patient_id,Age,Gender\n"
        "2020.03.22.20040782-p25-1542.png,Patient 1,1,41,M\n"
        "kjr-21-e24-p2-8,Patient 2,2,40+,F \n"
        "PIIS0140673620301549_0%1,Patient 3,3,,\n",
        encoding="utf-8",
    )
    (folder / "ucsd" / "NonCOVID-CT-MetaInfo.csv").write_text(
        ",image name,patient id,,patient_id\n"
        "0,1%0.jpg,crawled_patient_1,15,1\n"
        "1,91%1.jpg,crawled_patient_91,15,91\n"
        "2,1049.png,medpix_patient_1,14,1\n",
        encoding="utf-8",
    )
    return folder


def write_ladnn_d1(folder: Path) -> Path:
    """Writes two positives of one paper, which D0 has too, and two negatives, one of them without image."""
    write_image(folder / "5.14_covidct" / "kjr-21-e24-g001-l-b.jpg", seed=1)
    write_image(folder / "5.14_covidct" / "deeper" / "kjr-21-e24-g002-l-c.jpg", seed=2)
    write_image(folder / "5.16_nocovidct" / LUNG_CANCER, seed=3)
    (folder / "New_COVIDCT_meta(update to 5.18).csv").write_bytes(
        (
            D1_HEADER + "kjr-21-e24-g001-l-b.jpg,CVD19,GGO,,,Aibr,InSep,,5.14,https://x\r\n"
            "\r\n"
            "kjr-21-e24-g002-l-c.jpg,CVD19,,,,,,,5.14,\r\n"
        ).encode()
    )
    (folder / "New_NonCOVIDCT_meta(update to 5.18).csv").write_bytes(
        (D1_HEADER + f"{LUNG_CANCER},,,,,,,,5.16,\r\nlung_nodules_luna16_95397.png,,,,,,,,5.18,\r\n").encode()
    )
    return folder
