"""Uploads as people send them: zip files with large members, exports of a PACS, many slices of one person."""

import io
import random
import socket
import struct
import tracemalloc
import zipfile

import pytest
from serving_page import JSON, FakePredictor, png, running_page, zipped

from serving.page import intake, series_answering, unzip
from serving.page.app import create_app
from serving.page.file_kinds import is_dicomdir
from serving.page.intake import items_of, parted
from serving.page.server import config_of, serve
from serving.page.settings import Settings
from serving.page.words import LANGUAGES, words_of

NOISE = random.Random(1).randbytes(5 * 2**20)  # does not shrink
DICOM = b"\0" * 128 + b"DICM" + b"\0" * 50
NIFTI = b"\0" * 344 + b"n+1\0" + b"\0" * 50
GIF, TEXT = b"GIF89a", b"This disc holds DICOM."
PATIENT = "Mueller"  # an error may quote what it failed at


@pytest.fixture
def page(tmp_path):
    with running_page(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three files of DICOM."""
    pytest.importorskip("pydicom")
    from ladnn_tf.data.dicom_writer import write_series
    from ladnn_tf.data.phantom_volume import phantom_volume

    files = write_series(*phantom_volume(slices=3, size=32, seed=1)[:2], tmp_path_factory.mktemp("series"))
    return [(path.name, path.read_bytes()) for path in files]


def dicomdir() -> bytes:
    """A DICOMDIR that lists nothing (PS3.10, 8.6)."""
    pydicom = pytest.importorskip("pydicom")
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    made.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.FileSetID = "CD"
    made.DirectoryRecordSequence = []
    written = io.BytesIO()
    made.save_as(written, enforce_file_format=True)
    return written.getvalue()


def sent(*files):
    return [intake.SentFile("files", *file) for file in files]


def as_series(page, *files, language="en"):
    """An upload of slices of one person."""
    parts = [("files", file) for file in files]
    return page.client.post(f"/diagnose?lang={language}", data={"as_series": "yes"}, files=parts, headers=JSON)


# Zip files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("large", [NOISE, NIFTI + NOISE, b"PK\x03\x04" + NOISE])
def test_a_member_over_4_mib_costs_nothing_of_the_others(method, large):
    first, second, third = items_of(
        sent(("z.zip", zipped({"a.png": png(1), "large": large, "b.png": png(2)}, method))), Settings()
    )
    assert [first.content, third.content] == [png(1), png(2)]
    assert second.content == (large if large.startswith(NIFTI) else b"")
    assert second.code == {b"PK": "zip_nested", b"\0\0": ""}.get(large[:2], "kind_unknown")


def test_a_zip_with_a_large_member_is_answered(page):
    large, good = page.results(("z.zip", zipped({"large.png": png() + NOISE, "b.png": png(204)})))
    assert large["file"] == "large.png"
    assert good["state"] == "answered"


def test_the_bound_of_the_directory_is_none_of_members(monkeypatch):
    monkeypatch.setattr(unzip, "_MOST_DIRECTORY_BYTES", 500)
    (item,) = items_of(sent(("z.zip", zipped({"a.png": png() + NOISE[:5000]}, zipfile.ZIP_STORED))), Settings())
    assert item.content == png() + NOISE[:5000]


def test_a_member_takes_its_memory_once():
    """Beside the upload itself; the rest is for pieces."""
    content = zipped({"a.nii": NIFTI + NOISE})
    tracemalloc.start()
    try:
        (item,) = items_of(sent(("z.zip", content)), Settings())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert item.content == NIFTI + NOISE
    assert most < 2 * len(NOISE)


def test_a_directory_that_is_too_large_is_still_refused(monkeypatch):
    """Also in a file that claims gigabytes of it."""
    content = bytearray(zipped({"a.png": png()}))
    place = content.index(b"PK\x05\x06") + 12
    content[place : place + 4] = struct.pack("<I", 2**22 + 1)
    monkeypatch.setattr(unzip, "_MOST_DIRECTORY_BYTES", 60)
    for refused in (zipped({"a" * 20: b""}), bytes(content)):
        (item,) = items_of(sent(("z.zip", refused)), Settings())
        assert item.code in ("zip_directory", "zip_damaged")


def test_a_member_without_a_name_is_no_failure_of_the_page():
    """Python 3.11 looks at the last letter of its name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.png", png())
        archive.infolist()[0].filename = ""
    (item,) = items_of(sent(("z.zip", content.getvalue())), Settings())
    assert item.code in ("zip_damaged", "zip_member_damaged")


def test_what_nobody_expected_of_a_member_costs_that_member(monkeypatch, caplog):
    read = unzip.Archive._read

    def fail(archive, member, most_bytes):
        if member.filename == "bad.png":
            raise AttributeError(PATIENT)
        return read(archive, member, most_bytes)

    monkeypatch.setattr(unzip.Archive, "_read", fail)
    content = zipped({"a.png": png(1), "bad.png": png(), "b.png": png(2)})
    first, second, third = items_of(sent(("z.zip", content)), Settings())
    assert [first.content, third.content] == [png(1), png(2)]
    assert second.code == "file_failed"
    assert second.error == words_of("en")("reason.file_failed")
    assert "AttributeError" in caplog.text
    assert PATIENT not in caplog.text


# One bad file never spoils the others


def test_what_nobody_expected_of_a_file_costs_that_file(page, monkeypatch, caplog):
    def fail(*given):
        raise AttributeError(PATIENT)

    monkeypatch.setattr(intake, "Archive", fail)
    bad, good = page.results(("bad.zip", zipped({"a.png": png()})), ("b.png", png(204)))
    assert (bad["state"], bad["reason"]) == ("error", words_of("en")("reason.file_failed"))
    assert good["state"] == "answered"
    assert "Archive(" in caplog.text
    assert PATIENT not in caplog.text


def test_what_nobody_expected_of_an_image_costs_that_image(page, monkeypatch):
    decode = intake.preprocess.decode

    def fail(content):
        if content == png(1):
            raise AttributeError("broken")
        return decode(content)

    monkeypatch.setattr(intake.preprocess, "decode", fail)
    bad, good = page.results(("a.png", png(1)), ("b.png", png(204)))
    assert (bad["state"], bad["reason"]) == ("error", words_of("en")("reason.file_failed"))
    assert good["state"] == "answered"


def test_what_nobody_expected_of_a_series_costs_that_series(page, series, monkeypatch, caplog):
    read_sent = series_answering.read_sent

    def fail(files, *given):
        if files.kind == "NIfTI":
            raise AttributeError(PATIENT)
        return read_sent(files, *given)

    monkeypatch.setattr(series_answering, "read_sent", fail)
    response = page.upload(("a.nii", NIFTI), *series, ("b.png", png(204)))
    assert [result["state"] for result in response.json()["results"]] == ["answered"]
    first, second = response.json()["series"]
    assert first["slices"] == 3
    assert second["reason"] == words_of("en")("reason.file_failed")
    assert page.audit("series")[-1]["reason"] == "file_failed"
    assert PATIENT not in caplog.text + response.text


# Slices of one person


def test_slices_of_one_person_have_the_limit_of_series():
    limits = Settings(max_images=2, max_slices=4, queue=2)
    pictures = [(f"{number}.png", png(number)) for number in range(5)]
    for files in (sent(*pictures[:4]), sent(("z.zip", zipped(dict(pictures[:4]))))):
        _, (found,) = parted(items_of(files, limits, as_series=True), as_series=True)
        assert len(found.files) == 4
        with pytest.raises(intake.PageError) as caught:
            items_of(files, limits)
        assert (caught.value.key, caught.value.values["most"]) == ("too_many_images", 2)
    for files in (sent(*pictures), sent(("4.png", zipped(dict(pictures))))):
        with pytest.raises(intake.PageError) as caught:
            items_of(files, limits, as_series=True)
        assert (caught.value.status, caught.value.key) == (413, "too_many_slices")
        assert caught.value.values == {"file": "4.png", "count": 5, "most": 4}
    with pytest.raises(intake.PageError) as caught:  # others are still files like any
        items_of(sent(*[(f"{number}.txt", TEXT) for number in range(3)]), limits, as_series=True)
    assert caught.value.key == "too_many_images"


def test_sixty_five_slices_of_one_person_are_a_series(page):
    pytest.importorskip("skimage")
    response = as_series(page, *[(f"{number}.png", png(100 + number)) for number in range(65)])
    assert response.status_code == 200
    (result,) = response.json()["series"]
    assert (result["slices"], response.json()["results"]) == (65, [])


def test_too_many_slices_of_one_person_name_the_flag_to_the_operator(tmp_path, caplog):
    caplog.set_level("INFO")
    with running_page(tmp_path, max_images=1, max_slices=2) as page:
        response = as_series(page, *[(f"{number}.png", png(number)) for number in range(3)])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_slices")
    assert "2.png" in response.json()["error"]["message"]
    assert "(--max_slices)" in caplog.text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "key",
    ["refused.request_too_large", "refused.too_many_files", "refused.too_many_slices", "refused.too_many_dicom",
     "reason.zip_bomb", "reason.series_slices", "reason.series_memory", "index.too_much", "index.too_many_slices"],
)  # fmt: skip
def test_nobody_is_told_to_split_a_series(key, language):
    """Each part would be answered as another person."""
    text = words_of(language).texts[key]
    assert ("ask whoever runs this page to allow more" if language == "en" else "放宽限制") in text
    several = "in several parts" if language == "en" else "分"
    if several in text and key != "reason.zip_bomb":
        assert any(word in text for word in ("A series cannot", "a series cannot", "不可拆分", "请勿拆分"))


# Exports of a PACS


def test_other_files_beside_dicom_are_passed_over_and_counted():
    export = [("README.TXT", TEXT), ("VERSION", b""), ("autorun.inf", b"x"), ("logo.gif", GIF), ("a.pdf", b"%PDF"),
              ("1", DICOM), ("a.png", png()), ("v.nii", NIFTI)]  # fmt: skip
    setup = intake.SentFile("files", "setup.exe", b"", too_large=True, dropped=2**25)
    for files in ([*sent(*export), setup], sent(("export.zip", zipped(dict(export))), ("b.txt", TEXT))):
        single, (found, volume) = parted(items_of(files, Settings()), as_series=False)
        assert [item.name.rpartition("/")[2] for item in single] == ["a.png"]
        assert found.passed_over == 6
        assert volume.passed_over == 0
    single, _ = parted(items_of(sent(*export[:2], *export[-2:]), Settings()), as_series=False)
    assert [item.name for item in single] == ["README.TXT", "VERSION", "a.png"]  # there is no DICOM


def test_what_may_be_a_slice_is_not_passed_over():
    stored = bytearray(zipped({"1": DICOM, "2": DICOM + b"x"}, zipfile.ZIP_STORED))
    stored[stored.rindex(DICOM + b"x") + 140] ^= 0xFF
    files = sent(("bare", b"\x08\x00\x05\x00CS"), ("cd.zip", bytes(stored)), ("bad.zip", b"PK\x03\x04"))
    single, (found,) = parted(items_of(files, Settings()), as_series=False)
    assert [item.code for item in single] == ["kind_dicom", "zip_member_damaged", "zip_damaged"]
    assert found.passed_over == 0


def test_files_that_are_passed_over_do_not_count_as_images():
    """Whether they come before the DICOM files or behind them; but all files together have a limit."""
    limits = Settings(max_images=2, max_slices=4, queue=2)
    others = [(f"{number}.txt", TEXT) for number in range(5)]
    for files in ([*others, ("1", DICOM)], [("1", DICOM), *others]):
        _, (found,) = parted(items_of(sent(*files), limits), as_series=False)
        assert found.passed_over == 5
    with pytest.raises(intake.PageError) as caught:
        items_of(sent(*others), limits)
    assert (caught.value.key, caught.value.values["count"]) == ("too_many_images", 5)
    with pytest.raises(intake.PageError) as caught:
        items_of(sent(*others, ("1", DICOM), ("2.txt", TEXT)), limits)
    assert caught.value.key == "too_many_files"
    assert caught.value.values == {"file": "2.txt", "most": 6}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_folder_of_a_pacs_is_its_series_alone(page, series, language):
    files = [("README.TXT", TEXT), ("DICOMDIR", dicomdir()), *series, ("VERSION", b"1")]
    parts = [("files", file) for file in files]
    for sent_as in (parts, [("files", ("cd.zip", zipped(dict(files))))]):
        response = page.client.post(f"/diagnose?lang={language}", files=sent_as, headers=JSON)
        assert response.json()["results"] == []
        (found,) = response.json()["series"]
        assert found["slices"] == 3
        said = [each["text"] for each in found["report"]]
        assert words_of(language).count("series.passed_over", 2) in said
        assert [text for text in said if "DICOMDIR" in text or "Directory" in text] == []
    assert "PNG" not in words_of(language).count("series.passed_over", 2)


@pytest.mark.parametrize(
    ("language", "says"), [("en", "upload the folder with the files that it lists"), ("zh", "整个文件夹")]
)
def test_a_dicomdir_alone_is_told_what_to_upload(page, language, says):
    parts = [("files", ("DICOMDIR", dicomdir())), ("files", ("README.TXT", TEXT))]
    response = page.client.post(f"/diagnose?lang={language}", files=parts, headers=JSON)
    assert response.json()["results"] == []
    (found,) = response.json()["series"]
    assert (found["state"], found["reason_language"]) == ("error", language)
    assert says in found["reason"]
    assert page.audit("series")[0]["reason"] == "dicomdir_alone"


def test_a_dicomdir_is_told_by_its_class(series):
    assert is_dicomdir(dicomdir())
    assert not is_dicomdir(series[0][1])
    assert not is_dicomdir(dicomdir().replace(b"1.2.840.10008.1.3.10", b"1.2.840.10008.1.3.11"))
    assert not any(is_dicomdir(dicomdir()[:end]) for end in range(0, 200, 7) if end < 176)
    assert not is_dicomdir(DICOM)


# The port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_sentence_with_the_flag(tmp_path, host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = Settings(host=host, port=port, audit_log=tmp_path / "audit.jsonl")
        app = create_app(settings, FakePredictor(), None)
        with pytest.raises(ValueError, match=rf"^port {port} of {host} is in use .* give another port by --port$"):
            serve(config_of(app, settings))
