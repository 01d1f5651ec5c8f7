"""Series on the diagnosis page: uploads of DICOM, NIfTI and pictures of one person, friendly and hostile."""

# ruff: noqa: RUF001 (Chinese has its own punctuation)

import asyncio
import gzip
import json
import logging
import re
import struct
import sys
import threading
import zipfile

import numpy as np
import pytest
from series_files import IDENTIFYING, SAYINGS, changed, multi_frame, nifti
from serving_page import JSON, OPERATOR, FakePredictor, ask, example, form, png, running_page, zipped

from ladnn_tf.data.phantom_volume import phantom_volume
from serving.clients.errors import Unavailable
from serving.page import series_answering
from serving.page.app import create_app
from serving.page.reasons import reason_in
from serving.page.results_csv import results_csv
from serving.page.scratch import PREFIX, Scratch
from serving.page.series_parts import SeriesView
from serving.page.settings import Settings
from serving.page.words import words_of

pytest.importorskip("pydicom")

SLICES = 18


@pytest.fixture(scope="module")
def volume():
    """A phantom patient, HU and spacing."""
    return phantom_volume(slices=SLICES, size=64, seed=1)[:2]


@pytest.fixture(scope="module")
def dicom(volume, tmp_path_factory):
    """Its DICOM files, name -> content, as a scanner writes them."""
    from ladnn_tf.data.dicom_writer import write_series

    files = write_series(*volume, tmp_path_factory.mktemp("series"))
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def page(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with running_page(tmp_path, series_folder=scratch) as made:
        made.scratch = scratch
        yield made
    assert list(scratch.iterdir()) == []


def left_over(page):
    """The files that lie in the page's folder, its lock aside."""
    return [path for path in page.scratch.rglob("*") if path.is_file() and path.name != "lock"]


def series_of(response):
    assert response.status_code == 200, response.text
    return response.json()["series"]


def test_a_zip_of_dicom_is_answered_for_the_person(page, dicom):
    files = {f"CD/{name}": content for name, content in dicom.items()} | {
        "CD/viewer.exe": b"MZ",
        "autorun.inf": b"x",
    }
    response = page.upload(("scan.zip", zipped(files)))
    (result,) = series_of(response)
    assert response.json()["results"] == []
    looked_at = [each["covid"] for each in result["looked_at"]]
    answered = [covid for covid in looked_at if covid is not None]
    assert (result["slices"], len(looked_at)) == (SLICES, 15)
    assert 5 < len(answered) == result["slices_answered"] < 15  # belly and neck are left out
    assert result["covid"] == pytest.approx(np.mean(answered))
    assert result["low"] < result["covid"] < result["high"]
    assert result["positive"] == (result["covid"] >= 0.5)
    assert [each["number"] for each in result["looked_at"]] == [i * SLICES // 15 + 1 for i in range(15)]
    assert sum(each["count"] for each in result["left_out"]) == 15 - len(answered)
    assert result["file"] == "CD, series 1"
    assert result["report"][-1]["text"].startswith("2 other files are no DICOM")
    assert "16.7 mm apart".replace(" ", "\u00a0", 1) in result["looked"]
    assert left_over(page) == []

    (line,) = page.audit("series")
    assert (line["series"], line["of_series"], line["files"], line["slices"]) == (1, 1, SLICES, SLICES)
    assert (line["state"], line["reason"], line["outcome"]) == ("answered", None, "given")
    assert line["call"] == ("positive" if result["positive"] else "negative")
    assert line["bytes"] == sum(map(len, dicom.values()))
    assert page.audit("image") == []
    assert page.metric('ladnn_page_series_total{state="answered"}') == 1


def test_every_form_of_a_series_gives_the_same_answer(tmp_path, dicom, volume):
    forms = {
        "files": list(dicom.items()),
        "frames": [("frames", multi_frame(dicom))],
        "zip of frames": [("frames.zip", zipped({"a": multi_frame(dicom)}))],
        "nifti": [("a.nii", nifti(volume))],
        "gzip": [("a.nii.gz", gzip.compress(nifti(volume)))],
    }
    found = {}
    with running_page(tmp_path) as page:
        for name, files in forms.items():
            (result,) = series_of(page.upload(*files))
            assert result["state"] == "answered", (name, result["reason"])
            found[name] = result
    first = found.pop("files")
    assert first["slices"] == SLICES
    for name, result in found.items():
        assert (result["slices"], result["slices_answered"]) == (SLICES, first["slices_answered"]), name
        assert result["covid"] == pytest.approx(first["covid"], abs=1e-6), name
    assert found["gzip"]["file"] == "a.nii.gz"


def test_large_files_of_series_are_taken_whatever_an_image_may_have(tmp_path, volume):
    content = nifti((np.repeat(volume[0], 16, axis=0), volume[1]))
    assert len(content) > 2**21
    with running_page(tmp_path, max_image_mb=1, max_request_mb=8, max_unpacked_mb=8) as page:
        for files in (("a.nii", content), ("a.zip", zipped({"a.nii": content}))):
            (result,) = series_of(page.upload(files))
            assert result["slices"] == 16 * SLICES
        (result,) = page.results(("a.png", b"\x89PNG\r\n\x1a\n" + content))
        assert result["reason"].startswith("the file has more than 1 MB")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_call_interval_and_the_most_suspicious_slices(page, dicom, language):
    files = [("files", file) for file in dicom.items()]
    text = page.client.post(f"/diagnose?lang={language}", files=files).text
    words = words_of(language)
    article = text.split("<article")[1].split("</article>")[0]
    assert len(re.findall(r'<img src="data:image/jpeg', article)) == 3
    assert len(re.findall(r'<img class="heat"', article)) == 3
    alts = re.findall(r'alt="([^"]+)"', article)
    assert len(alts) == 3
    assert all(str(SLICES) in alt and "%" in alt for alt in alts)
    for key in ("series.suspects", "series.slices", "series.all", "notice", "results.legend"):
        assert words(key) in article, key
    assert 'class="bar-interval"' in article
    assert words("results.none") not in text
    assert "data:text/csv" in text


def test_pictures_of_one_person_are_a_series_if_they_are_said_to_be(page, volume):
    from ladnn_tf.data.preprocess import encode_png
    from ladnn_tf.data.volume import display

    pictures = [encode_png(display(hu, -600, 1500)) for hu in volume[0]]
    names = [f"{number}.png" for number in range(1, SLICES + 1)]
    sent = sorted(zip(names, pictures, strict=True))  # 1, 10, 11, ... 2
    archive = zipped(dict(sent))
    response = page.client.post(
        "/diagnose",
        data={"as_series": "yes"},
        files=[("files", ("scan.zip", archive))],
        headers=JSON,
    )
    (result,) = series_of(response)
    assert response.json()["results"] == []
    assert (result["state"], result["slices"]) == ("answered", SLICES)
    # Belly and neck are at the ends only if 2 comes before 10.
    left_out = [each["number"] for each in result["looked_at"] if each["covid"] is None]
    assert left_out
    assert all(number <= 4 or number >= SLICES - 4 for number in left_out)
    assert "order of the numbers in their names" in result["looked"]
    assert len(page.results(("scan.zip", archive))) == SLICES  # without the word each for itself


def test_images_beside_a_series_keep_their_own_answers(page, dicom):
    response = page.upload(("a.png", png(204)), *dicom.items(), ("b.txt", b"text"))
    assert [result["state"] for result in response.json()["results"]] == ["answered"]
    (result,) = series_of(response)
    assert result["state"] == "answered"
    assert result["report"][-1]["text"] == "1 other file is no DICOM and was passed over."
    assert [line["event"] for line in page.audit()] == ["series", "image", "request"]


def test_nothing_of_the_patient_is_told(page, dicom, caplog, capfd):
    """Names, numbers, dates and free text are in the files, and nowhere in answers and logs."""
    caplog.set_level(logging.DEBUG)
    named = {f"IM{number:04d}": changed(content, **IDENTIFYING) for number, content in enumerate(dicom.values())}
    named["IM9999"] = named["IM0003"]  # a duplicate, which the report names
    named["IM9998"] = named["IM0004"][:-9000]
    told = []
    for headers in ({"Accept": "application/json"}, {"Accept": "text/html"}):
        response = page.upload(("cd.zip", zipped(named)), headers=headers)
        assert response.status_code == 200
        assert "IM9998" in response.text  # what was left out is named by its file
        told.append(response.text)
    told += [json.dumps(page.audit()), caplog.text, *capfd.readouterr()]
    for text in told:
        plain = re.sub(r'"data:[^"]+"', "", text)
        for value in SAYINGS:
            assert value not in plain, value
    for log in told[2:]:
        assert "IM9998" not in log
        assert "cd.zip" not in log


def test_two_series_are_two_answers(page, dicom, volume, tmp_path):
    from ladnn_tf.data.dicom_writer import write_series

    other = write_series(volume[0][::2], (2 * volume[1][0], *volume[1][1:]), tmp_path / "b", description="other")
    files = {f"a/{name}": content for name, content in dicom.items()}
    files |= {f"b/{path.name}": changed(path.read_bytes(), SeriesNumber=7) for path in other}
    first, second = series_of(page.upload(("cd.zip", zipped(files))))
    assert (first["file"], first["slices"]) == ("a, series 1", SLICES)
    assert (second["file"], second["slices"]) == ("b, series 7", SLICES // 2)
    lines = page.audit("series")
    assert [(line["series"], line["of_series"], line["files"]) for line in lines] == [
        (1, 2, SLICES),
        (2, 2, SLICES // 2),
    ]
    assert lines[0]["files_hmac_sha256"] != lines[1]["files_hmac_sha256"]


def test_more_series_in_an_upload_than_uploads_may_wait_are_answered_one_after_the_other(tmp_path, volume):
    files = [(f"{number}.nii", nifti((volume[0][:2], volume[1]))) for number in range(10)]
    with running_page(tmp_path, series_queue=1) as page:
        found = series_of(page.upload(*files))
        assert [result["file"] for result in found] == [name for name, _ in files]
        assert [(line["series"], line["of_series"]) for line in page.audit("series")] == [
            (place, 10) for place in range(1, 11)
        ]


def test_if_one_series_fails_those_before_it_are_in_the_audit_log(page, volume):
    predict, asked = page.predictor.predict, []

    def fail_at_the_second(images):
        asked.append(len(images))
        if len(asked) == 2:
            raise Unavailable("down")
        return predict(images)

    page.predictor.predict = fail_at_the_second
    assert page.upload(*((name, nifti(volume)) for name in ("a.nii", "b.nii", "c.nii"))).status_code == 503
    assert [(line["state"], line["outcome"]) for line in page.audit("series")] == [
        ("answered", "failed"),
        ("not_begun", "failed"),
        ("not_begun", "failed"),
    ]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_slices": 2 * SLICES - 1}, f"have {2 * SLICES} slices, and at most {2 * SLICES - 1}"),
        # 4 bytes a pixel: a series of 4 x 18 slices of 64 x 64 has 1.125 MiB, one of 18 slices 0.28.
        ({"max_series_mb": 2}, "need 3 MB as they are read, and at most 2 MB"),
    ],
)
def test_limits_are_of_all_series_of_an_upload_together(tmp_path, volume, limit, words):
    times = 4 if "max_series_mb" in limit else 1
    large, small = nifti((np.repeat(volume[0], times, axis=0), volume[1])), nifti((volume[0][:9], volume[1]))
    with running_page(tmp_path, **limit) as page:
        for _ in range(2):  # the next upload has all of it again
            first, second, third = series_of(page.upload(("a.nii", large), ("b.nii", large), ("c.nii", small)))
            assert (first["state"], first["slices"]) == ("answered", times * SLICES)
            assert second["state"] == "error"
            assert words in second["reason"]
            assert third["slices"] == 9  # there is room for it


def test_free_text_in_code_strings_is_not_shown(page, dicom):
    """In ImageType, FrameType, RescaleType and TransferSyntaxUID anything may stand, also a name."""
    contents = list(dicom.values())
    frames = multi_frame(dict(list(dicom.items())[4:]))
    given = {
        "derived": changed(contents[0], ImageType=["DERIVED", "SECRETXAXX", "AXIAL", "MPR"]),
        "rescaled": changed(contents[1], RescaleType="SECRET, NOT HU"),
        "coded": contents[2].replace(b"1.2.840.10008.1.2.1\0", b"1.2.SECRET.SECRET.2\0"),
        "frames": frames.replace(b"ORIGINAL\\PRIMARY\\VOLUME", b"DERIVED\\PRIMARY\\SECRETX"),
    }
    given["derived"] = given["derived"].replace(b"SECRETXAXX", b"SECRET (A)")
    assert [b"SECRET" in content for content in given.values()] == [True] * 4
    good = [(f"{number}", content) for number, content in enumerate(contents)]
    for files, state in (([*given.items()], "error"), ([*given.items(), *good], "answered")):
        (result,) = series_of(page.upload(*files))
        assert result["state"] == state
        text = json.dumps(result)
        assert "SECRET" not in text
        assert "Type (0008,0008) DERIVED/.../AXIAL/MPR)" in text
        assert "DERIVED/PRIMARY/.../NONE)" in text
        assert "RescaleType (0028,1054) is ..., not HU" in text
        assert "TransferSyntaxUID (0002,0010) has no decoder here" in text


def test_what_the_reader_finds_irregular_is_said_in_the_readers_language(page, dicom):
    contents = list(dicom.values())
    odd = {
        "same": contents[3],
        "derived": changed(contents[4], ImageType=["DERIVED", "PRIMARY", "AXIAL"]),
        "secondary": changed(contents[5], ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]),
        "localizer": changed(contents[6], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    }
    parts = [("files", file) for file in (*dicom.items(), *odd.items())]
    (result,) = series_of(page.client.post("/diagnose?lang=zh", files=parts, headers=JSON))
    assert len(result["report"]) == 4
    assert [each["text"] for each in result["report"] if each["language"] != "zh"] == []


def test_a_series_without_lungs_gets_no_answer_and_no_number(page, volume, tmp_path):
    from ladnn_tf.data.dicom_writer import write_series

    air = write_series(np.full((16, 64, 64), -1000.0), volume[1], tmp_path / "air")
    files = [(path.name, path.read_bytes()) for path in air]
    (result,) = series_of(page.upload(*files))
    assert (result["state"], result["covid"], result["positive"], result["percent"]) == (
        "abstained",
        None,
        None,
        "",
    )
    assert result["left_out"][0]["count"] == 15
    assert "no body was found" in result["left_out"][0]["text"]
    text = page.client.post("/diagnose", files=[("files", file) for file in files]).text
    article = text.split("<article")[1].split("</article>")[0]
    assert "No answer" in article
    assert "called" not in article.lower()
    assert "probability" not in article.lower().replace("probability, or why left out", "")
    assert page.predictor.asked == 0
    assert {(line["state"], line["call"]) for line in page.audit("series")} == {("abstained", None)}


def test_truncated_files_are_left_out_by_name_and_all_of_them_are_no_series(page, dicom):
    cut = {name: content[:-2000] if place < 2 else content for place, (name, content) in enumerate(dicom.items())}
    (result,) = series_of(page.upload(*cut.items()))
    assert (result["state"], result["slices"]) == ("answered", SLICES - 2)
    left_out = [each["text"] for each in result["report"] if each["text"].startswith("left out")]
    assert len(left_out) >= 1
    assert all(name in " ".join(left_out) for name in list(dicom)[:2])
    (result,) = series_of(page.upload(*((name, content[:200]) for name, content in dicom.items())))
    assert (result["state"], result["covid"]) == ("error", None)
    assert "no CT slice can be read" in result["reason"]
    assert page.audit("series")[-1]["reason"] == "series_unreadable"
    assert str(page.scratch) not in json.dumps(result)


@pytest.mark.parametrize(
    ("limit", "code"), [({"max_slices": SLICES}, "series_slices"), ({"max_series_mb": 1}, "series_memory")]
)
def test_what_is_too_large_is_not_read_and_the_operator_is_told_the_flag(
    tmp_path, dicom, volume, caplog, monkeypatch, limit, code
):
    """Five times the series: 90 slices of 64 x 64, which have 1.4 MB in memory."""
    from ladnn_tf.data import volumes

    monkeypatch.setattr(volumes, "read_series", lambda path: pytest.fail("it is read"))
    large = np.repeat(volume[0], 5, axis=0), volume[1]
    pictures = zipped({f"{number}.png": png(size=(512, 512)) for number in range(2)})
    forms = [("a", multi_frame(dicom, 5)), ("a.nii.gz", gzip.compress(nifti(large)))]
    forms += [("a.zip", pictures)] if "max_series_mb" in limit else []
    with running_page(tmp_path, **limit) as page:
        for file in forms:
            response = page.client.post(
                "/diagnose",
                data={"as_series": "yes"},
                files=[("files", file)],
                headers=JSON,
            )
            (result,) = series_of(response)
            assert result["state"] == "error"
            assert "ask whoever runs this page" in result["reason"]
            assert "--max" not in json.dumps(result)
            assert page.audit("series")[-1]["reason"] == code
    assert caplog.text.count(f"--{next(iter(limit))}") == len(forms)


def test_too_many_dicom_files(tmp_path, dicom, caplog):
    caplog.set_level(logging.INFO)
    with running_page(tmp_path, max_slices=SLICES - 1) as page:
        for files in (list(dicom.items()), [("cd.zip", zipped(dicom))]):
            response = page.upload(*files)
            assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_dicom")
    assert "--max_slices" in caplog.text


def test_a_bomb_of_dicom_is_not_unpacked(tmp_path, dicom):
    """A member that begins as DICOM may be larger than an image, but not than all that may be unpacked."""
    bomb = zipped({f"{place}.dcm": b"\0" * 128 + b"DICM" + b"\0" * 3 * 2**20 for place in range(4)})
    assert len(bomb) < 2**16
    with running_page(tmp_path, max_unpacked_mb=8, max_image_mb=1, max_request_mb=4) as page:
        response = page.upload(("bomb.zip", bomb), *dicom.items())
        (refused,) = response.json()["results"]
        assert refused["reason"].startswith("the zip files of this upload hold more than 8 MB")
        assert series_of(response)[0]["state"] == "answered"
        gunzips = gzip.compress(nifti((np.zeros((1, 4, 4)), (1, 1, 1)))[:352] + b"\0" * 2**26)
        (result,) = series_of(page.upload(("a.nii.gz", gunzips)))
        assert result["slices"] == 1  # what comes behind the voxels is not unpacked


def test_a_nifti_header_that_promises_gigabytes(page):
    head = bytearray(nifti((np.zeros((1, 4, 4)), (1, 1, 1)))[:352])
    struct.pack_into("<8h", head, 40, 3, 30000, 30000, 2, 1, 1, 1, 1)
    (result,) = series_of(page.upload(("a.nii", bytes(head))))
    assert result["state"] == "error"
    assert "900,000,000 pixels" in result["reason"]


def test_a_client_that_goes_away_leaves_nothing(tmp_path, dicom):
    predictor = FakePredictor()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = Settings(rate_limit=0, audit_log=tmp_path / "audit.jsonl", series_folder=scratch)
    app = create_app(settings, predictor, None)
    sent = form(*dicom.values())

    async def scenario():
        leave = asyncio.Event()
        predictor.free.clear()
        async with app.router.lifespan_context(app):
            asked = asyncio.create_task(ask(app, "/diagnose", *sent, leave=leave))
            assert await asyncio.to_thread(predictor.begun.wait, 60)
            leave.set()
            assert await asked == []
            assert [path for path in scratch.rglob("*") if path.is_file() and path.name != "lock"] == []
            predictor.free.set()
            answer = await ask(app, "/diagnose", *sent)
            assert answer[0]["status"] == 200

    asyncio.run(scenario())
    assert list(scratch.iterdir()) == []
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    series = [line for line in lines if line["event"] == "series"]
    assert [(line["state"], line["outcome"]) for line in series] == [
        ("not_begun", "client_gone"),
        ("answered", "given"),
    ]
    assert predictor.asked < 2 * 15  # the first was not answered to its end


def test_a_full_queue_of_series_refuses_at_once_and_images_are_answered_meanwhile(tmp_path, dicom):
    with running_page(tmp_path, series_queue=1) as page:
        predict, held = page.predictor.predict, threading.Event()
        begun = threading.Event()

        def wait(images):
            begun.set()
            assert held.wait(60)
            return predict(images)

        page.predictor.predict = wait
        first = threading.Thread(target=page.upload, args=tuple(dicom.items()))
        first.start()
        assert begun.wait(60)
        answers = []

        def another():
            answers.append(page.upload(*dicom.items()).status_code)
            if answers[-1] == 503:
                held.set()

        others = [threading.Thread(target=another) for _ in range(2)]
        for thread in others:
            thread.start()
        assert page.results(("a.png", png(204)))[0]["state"] == "answered"
        for thread in (first, *others):
            thread.join(60)
        assert sorted(answers) == [200, 503]


@pytest.mark.parametrize("module", ["ladnn_tf.data.volumes", "ladnn_tf.series", "ladnn_tf.data.dicom_frames"])
def test_where_a_package_is_missing_series_are_refused_and_images_answered(
    page, dicom, monkeypatch, module, caplog
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(sys.modules[module.rpartition(".")[0]], module.rpartition(".")[2], raising=False)
    response = page.upload(("a.png", png(204)), *dicom.items())
    assert response.json()["results"][0]["state"] == "answered"
    (result,) = series_of(response)
    assert (result["state"], result["covid"]) == ("error", None)
    assert "not installed" in result["reason"]
    assert page.audit("series")[0]["reason"] == "series_not_installed"
    assert "series refused" in caplog.text


def test_all_slices_are_answered_by_one_model(page, dicom):
    """The model changes once: the series is answered anew. It changes always: there is no answer."""
    predict, changes = page.predictor.predict, [1]

    def change_once(images):
        answers = predict(images)
        if changes:
            changes.pop()
            page.predictor.current = page.predictor.current[0], "e" * 64
            answers = answers[:1] + predict(images)[1:]
        return answers

    page.predictor.predict = change_once
    (result,) = series_of(page.upload(*dicom.items()))
    assert result["card_sha256"] == "e" * 64
    changes += [1] * 10
    numbers = iter(range(100))

    def change_always(images):
        page.predictor.current = page.predictor.current[0], f"{next(numbers):064d}"
        return predict(images)

    page.predictor.predict = change_always
    response = page.upload(*dicom.items())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_changes")
    assert left_over(page) == []


def test_a_full_disk_is_a_refusal(page, dicom, monkeypatch, caplog):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(series_answering, "read_sent", full)
    response = page.upload(*dicom.items())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_room_for_series")
    assert "--series_folder" in caplog.text
    assert "--series_folder" not in response.text


def test_a_folder_for_series_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"--series_folder=.* should be a folder"):
        create_app(Settings(audit_log=tmp_path / "audit", series_folder=tmp_path / "none"), FakePredictor(), None)


def test_what_a_killed_page_left_is_deleted_by_the_next_one_alone(tmp_path):
    living = Scratch(tmp_path)
    left = tmp_path / f"{PREFIX}left"
    (left / "series").mkdir(parents=True)
    (left / "series" / "00000.dcm").write_bytes(b"x")
    (left / "lock").write_bytes(b"")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    with living.folder() as folder:
        (folder / "a").write_bytes(b"x")
        other = Scratch(tmp_path)
        assert not left.exists()
        assert (folder / "a").exists()
        other.close()
    assert not folder.exists()
    living.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}link"]


def test_a_series_has_its_row_in_the_table(page, dicom):
    (result,) = series_of(page.upload(*dicom.items()))
    fields = {field: result[field] for field in SeriesView.__dataclass_fields__ if field in result}
    fields |= {"left_out": [], "report": [], "classes": []}
    header, row = results_csv([], [SeriesView(**fields)]).decode("utf-8-sig").splitlines()
    cells = dict(zip(header.replace('"', "").split(","), re.findall(r'"([^"]*)"', row), strict=True))
    assert float(cells["covid"]) == result["covid"]
    assert (cells["slices"], cells["aggregation"]) == (str(SLICES), "mean")
    assert (float(cells["low"]), float(cells["high"])) == (result["low"], result["high"])


def test_the_page_takes_no_series_for_the_data_collection(tmp_path, dicom):
    from serving.collection.consent import consent
    from serving.collection.store import Collection

    agreed = {"agree": "yes", "consent": consent("en", OPERATOR).sha256, "is_chest_ct": "yes"}
    name, content = next(iter(dicom.items()))
    with Collection(tmp_path / "data") as collection, running_page(tmp_path, collection=collection) as page:
        for file in ((name, content), ("bare", content[132:]), ("a.nii", b"\0" * 344 + b"n+1\0")):
            response = page.client.post(
                "/contribute", data=agreed, files=[("files", ("a.png", example())), ("files", file)]
            )
            assert response.status_code == 422
            assert "such files hold the patient&#39;s name and dates" in response.text
        assert collection.count() == 0


def test_members_of_a_zip_that_are_stored_lie_in_no_folder_of_their_names(page, dicom):
    """Names are never paths: what leads out of a folder is written under a number."""
    files = {f"../../{'x' * 30}/{name}": content for name, content in dicom.items()}
    (result,) = series_of(page.upload(("cd.zip", zipped(files, zipfile.ZIP_STORED))))
    assert (result["state"], result["file"]) == ("answered", f"{'x' * 30}, series 1")
    assert left_over(page) == []


# What the readers say, in Chinese


def in_chinese(page, *files, **data):
    """The series of an upload as a reader of Chinese sees them."""
    parts = [("files", file) for file in files]
    return series_of(page.client.post("/diagnose?lang=zh", data=data, files=parts, headers=JSON))


def small(folder, count=4, **settings):
    """DICOM files of water, from feet to head."""
    from ladnn_tf.data.dicom_writer import write_series

    files = write_series(np.zeros((count, 32, 32)), (5.0, 1.0, 1.0), folder, **settings)
    return [path.read_bytes() for path in files]


def named(contents, start=""):
    return [(f"{start}{place}", content) for place, content in enumerate(contents)]


def check_report(result, expected):
    """Whether a report has these lines, and none that is English."""
    lines = result["report"]
    assert [each["text"] for each in lines if each["language"] != "zh"] == []
    assert expected <= {each["text"] for each in lines}


def check_starts(result, starts):
    """Whether a report has lines that begin so."""
    for start in starts:
        assert any(each["text"].startswith(start) for each in result["report"]), start


LEFT_OUT = {
    "辐射剂量报告（X-Ray Radiation Dose SR Storage），不是 CT 图像": {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"
    },
    "二次采集图像，如屏幕截图（Secondary Capture Image Storage），不是 CT 图像": {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"
    },
    "类型未知的 DICOM 对象，不是 CT 图像": {"SOPClassUID": "1.2.3.4"},
    "不是横断面：图像方向 ImageOrientationPatient (0020,0037) 偏离横断面超过 25 度": {
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]
    },
    "图像方向 ImageOrientationPatient (0020,0037) 不是两个互相垂直的单位向量": {
        "ImageOrientationPatient": [1, 0, 0, 1, 0, 0]
    },
    "像素间距 PixelSpacing (0028,0030) 不是两个 0.001 至 100 mm 的长度": {"PixelSpacing": [0, 1]},
    "CT 值换算斜率 RescaleSlope (0028,1053) 为 0": {"RescaleSlope": 0},
    "像素值单位 RescaleType (0028,1054) 为 MGML，不是 HU": {"RescaleType": "MGML"},
    "彩色图像：SamplesPerPixel (0028,0002) 不为 1": {"SamplesPerPixel": 3},
    "不是灰度图像：PhotometricInterpretation (0028,0004) 既非 MONOCHROME1，也非 MONOCHROME2": {
        "PhotometricInterpretation": "PALETTE COLOR"
    },
    "BitsAllocated (0028,0100) 32、BitsStored (0028,0101) 16 与 HighBit (0028,0102) 15 互相矛盾，"
    "或不是 8 位或 16 位": {"BitsAllocated": 32},
    "缺少图像位置 ImagePositionPatient (0020,0032)": {"ImagePositionPatient": None},
    "缺少图像方向 ImageOrientationPatient (0020,0037)": {"ImageOrientationPatient": None},
    "缺少像素间距 PixelSpacing (0028,0030)": {"PixelSpacing": None},
    "缺少 CT 值换算斜率 RescaleSlope (0028,1053)": {"RescaleSlope": None},
    "缺少 CT 值换算截距 RescaleIntercept (0028,1052)": {"RescaleIntercept": None},
    "缺少序列标识 SeriesInstanceUID (0020,000E)": {"SeriesInstanceUID": None},
    "缺少对象类型 SOPClassUID (0008,0016)": {"SOPClassUID": None},
    "缺少 BitsStored (0028,0101)": {"BitsStored": None},
    "PixelSpacing (0028,0030) 有 1 个值，应为 2 个": {"PixelSpacing": 1},
    "ImagePositionPatient (0020,0032) 有 2 个值，应为 3 个": {"ImagePositionPatient": [1, 2]},
}
"""Why a file is left out -> the values that make it so."""


def test_why_a_file_is_left_out_is_said_in_chinese(page, tmp_path):
    contents = small(tmp_path / "dicom")
    good = contents[0]
    odd = {reason: changed(good, **values) for reason, values in LEFT_OUT.items()}
    odd["缺少像素数据 PixelData (7FE0,0010)"] = good[: good.index(b"\xe0\x7f\x10\x00OW")]
    odd["文件不完整：像素数据 PixelData (7FE0,0010) 应有 2,048 字节，仅有 1,948 字节"] = good[:-100]
    odd["RescaleSlope (0028,1053) 的值不是数字"] = changed(good, RescaleSlope="9.75").replace(b"9.75", b"none")
    cut_off = good[: good.index(b"\x08\x00\x16\x00UI")] + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
    odd["DICOM 文件头已损坏（解析时出现 OSError）"] = cut_off
    (result,) = in_chinese(page, *named(contents), *named(odd.values(), "odd"))
    assert result["slices"] == 4
    check_report(result, {f"已排除 odd{place}：{reason}。" for place, reason in enumerate(odd)})


def test_a_cd_is_read_and_its_dicomdir_is_nothing_irregular(page, tmp_path):
    from benchmarks.series_files import write_dicomdir

    small(tmp_path / "dicom")
    folder = write_dicomdir(sorted((tmp_path / "dicom").iterdir()), tmp_path / "cd").parent
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    (result,) = in_chinese(page, ("cd.zip", zipped(files)))
    assert (result["slices"], result["report"]) == (4, [])


def test_compressed_files_that_cannot_be_decoded_are_named_in_chinese(page, tmp_path, monkeypatch):
    pytest.importorskip("rle")
    contents = small(tmp_path / "dicom")
    rle = small(tmp_path / "rle", 1, transfer_syntax="1.2.840.10008.1.2.5")[0]
    mpeg2 = contents[0].replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x18\x001.2.840.10008.1.2.4.100\0")
    files = [*named(contents), ("mpeg2", mpeg2), ("cut", rle[:-20])]
    (result,) = in_chinese(page, *files)
    check_report(result, {"已排除 cut：压缩的像素数据 PixelData (7FE0,0010) 已损坏或不完整。"})
    syntax = "传输语法 TransferSyntaxUID (0002,0010)"
    starts = (f"已排除 mpeg2：本页面无法解码其{syntax}；请转换为以下之一：Deflated",)
    check_starts(result, starts)
    monkeypatch.setitem(sys.modules, "rle", None)
    (result,) = in_chinese(page, *files)
    missing = f"本页面未安装解码{syntax} RLE Lossless (1.2.840.10008.1.2.5) 所需的组件"
    check_starts(result, (*starts, f"已排除 cut：{missing}；请告知本页面的管理者（pip install "))


FRAME = "像素数据 PixelData (7FE0,0010) 中有一帧"


def jpeg(marker, bits, scan=b""):
    """The headers of a JPEG of 32 x 32 pixels, up to the scan if there is one (ISO 10918-1, B.2)."""
    frame = bytes((0xFF, marker, 0, 11, bits, 0, 32, 0, 32, 1, 1, 0x11, 0))
    return b"\xff\xd8" + frame + (b"\xff\xda\0\x08\1\1\0\0" + scan if scan else b"")


@pytest.mark.parametrize(
    ("syntax", "encoded", "chinese"),
    [
        ("JPEGLSLossless", b"\0\0", f"{FRAME}不是 JPEG"),
        ("JPEGLSLossless", b"\xff\xd8", f"{FRAME} JPEG 已损坏"),
        ("JPEGLSLossless", jpeg(0xC3, 16), f"{FRAME}的 JPEG 类型与 TransferSyntaxUID 所标明的不同"),
        (
            "JPEGLSLossless",
            jpeg(0xF7, 16, b"\0\0"),
            f"{FRAME}的压缩码流已损坏（JPEG-LS Lossless Image Compression）",
        ),
        ("JPEG2000Lossless", b"\0" * 64, f"{FRAME}不是 JPEG 2000 码流"),
        ("JPEGBaseline8Bit", jpeg(0xC0, 8, b"\x3f\0"), f"{FRAME}已损坏（"),
        (
            "JPEGExtended12Bit",
            jpeg(0xC1, 12, b"\x3f\0"),
            "本页面无法解码 12 位的传输语法 TransferSyntaxUID (0002,0010) "
            "JPEG Extended (Process 2 and 4)；请转换格式",
        ),
    ],
)
def test_damaged_frames_are_named_in_chinese(syntax, encoded, chinese):
    for package in ("gdcm", "openjpeg"):
        pytest.importorskip(package)
    from pydicom import uid

    from ladnn_tf.data.dicom_codecs import CodecError, FrameFormat, decode_frame

    with pytest.raises(CodecError) as refused:
        decode_frame(encoded, getattr(uid, syntax), FrameFormat(32, 32, 16, 16, signed=False))
    text, language = reason_in(words_of("zh"), str(refused.value))
    assert language == "zh"
    assert text == chinese or (chinese.endswith("（") and text.startswith(chinese))


IRREGULAR = {
    "parts": (
        lambda place: {"PixelSpacing": [1 + place // 2] * 2},
        {"该序列各层的大小、方向、像素间距或参考坐标系不一致，已分为 2 组读取。"},
    ),
    "acquisitions": (
        lambda place: {"AcquisitionNumber": 1 + place // 2},
        {"各层来自 2 次采集，见 AcquisitionNumber (0020,0012)，范围前后相接。"},
    ),
    "header": (
        lambda place: {
            "RescaleType": "US",
            "ImageType": None,
            "PhotometricInterpretation": "MONOCHROME1",
            "LossyImageCompression": "01",
        },
        {
            "像素值单位 RescaleType (0028,1054) 为 US，即未指明，按 HU 处理（4 层中的 4 层）。",
            "缺少图像类型 ImageType (0008,0008)，视为原始横断面图像（4 层中的 4 层）。",
            "PhotometricInterpretation (0028,0004) 为 MONOCHROME1：在其他软件中反相显示；"
            "CT 值不受影响（4 层中的 4 层）。",
            "LossyImageCompression (0028,2110) 为 01：图像经过有损压缩（4 层中的 4 层）。",
        },
    ),
    "prone": (
        lambda place: {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]},
        {"已按 ImageOrientationPatient (0020,0037) 转正（如俯卧或其他存储方式）：前后、左右均翻转。"},
    ),
    "tilted": (
        lambda place: {"ImageOrientationPatient": [1, 0, 0, 0, 0.9848, 0.1736]},
        {"各层相对于横断面倾斜 10.0 度；保持原样。"},
    ),
    "rotated": (
        lambda place: {"ImageOrientationPatient": [0.9848, 0.1736, 0, -0.1736, 0.9848, 0]},
        {"各层在其平面内旋转 10.0 度；保持原样。"},
    ),
    "rescale": (
        lambda place: {"RescaleSlope": 1 + place % 2},
        {
            "各层的 CT 值换算斜率 RescaleSlope (0028,1053) 或截距 RescaleIntercept (0028,1052) 不同；"
            "每层按各自的数值换算。"
        },
    ),
}
"""What is irregular about a series -> the values of its slices, and what is reported."""


@pytest.mark.parametrize("name", IRREGULAR)
def test_what_is_irregular_is_said_in_chinese(page, tmp_path, name):
    values, expected = IRREGULAR[name]
    contents = [changed(content, **values(place)) for place, content in enumerate(small(tmp_path / "dicom"))]
    found = in_chinese(page, *named(contents))
    assert len(found) == (2 if name == "parts" else 1)
    for result in found:
        check_report(result, expected)


def test_what_is_irregular_about_one_slice_is_said_in_chinese(page, tmp_path):
    values, lines = IRREGULAR["header"]
    (content,) = small(tmp_path / "dicom", 1)
    (result,) = in_chinese(page, ("a", changed(content, **values(0), GantryDetectorTilt=15)))
    expected = {line.replace("4 层中的 4 层", "仅 1 层") for line in lines}
    check_report(result, expected | {"机架倾角 GantryDetectorTilt (0018,1120) 为 15.0 度（仅 1 层）。"})


def test_padding_of_one_slice_is_said_in_chinese(page, tmp_path):
    first, *others = small(tmp_path / "dicom")
    intercept = b"\x28\0\x52\x10DS"  # before it, PixelPaddingValue of 1024: water as it is stored
    first = first.replace(intercept, b"\x28\0\x20\x01SS\x02\0\0\x04" + intercept)
    (result,) = in_chinese(page, *named([first, *others]))
    padded = "1 层中 25.0% 的像素没有测量值，按空气（-1000 HU）处理。"
    check_report(result, {f"填充值 PixelPaddingValue (0028,0120)：{padded}"})


def test_several_studies_and_patients_are_said_in_chinese(page, tmp_path):
    files = [*named(small(tmp_path / "a"), "a"), *named(small(tmp_path / "b", seed=1), "b")]
    found = in_chinese(page, *files)
    assert len(found) == 2
    for result in found:
        check_report(result, {"这些文件来自 2 次检查。", "这些文件属于 2 名患者。"})


def test_acquisitions_that_overlap_are_said_in_chinese(page, tmp_path):
    contents = small(tmp_path / "dicom")
    again = [changed(content, AcquisitionNumber=2) for content in contents]
    found = in_chinese(page, *named(contents), *named(again, "again"))
    assert len(found) == 2
    for result in found:
        check_report(result, {"该序列的 2 次采集范围重叠，见 AcquisitionNumber (0020,0012)，已分为 2 组读取。"})


@pytest.mark.parametrize(("gaps", "more"), [((10, 16, 23, 31), 1), ((10, 16, 23, 31, 42), 2)])
def test_more_gaps_than_are_listed_are_said_in_chinese(page, tmp_path, gaps, more):
    heights = np.cumsum([0, 5, *(step for gap in gaps for step in (gap, 5))]).tolist()
    contents = [
        changed(content, ImagePositionPatient=[0, 0, height])
        for content, height in zip(small(tmp_path / "dicom", len(heights)), heights, strict=True)
    ]
    (result,) = in_chinese(page, *named(contents))
    check_report(result, {f"另有 {more} 处间隔。"})


def test_that_nothing_can_be_read_is_said_in_the_readers_language(page, tmp_path):
    contents = small(tmp_path / "dicom", 5)
    derived = [changed(content, ImageType=["DERIVED", "PRIMARY", "AXIAL"]) for content in contents]
    localizer = changed(contents[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    files = [*named(derived), ("b", localizer)]
    (result,) = in_chinese(page, *files)
    assert (result["state"], result["reason_language"]) == ("error", "zh")
    assert result["reason"] == (
        "未能读取任何 CT 层面。"
        "已排除 0, 1, 2 等（另有 2 个）：派生图像（ImageType (0008,0008) DERIVED/PRIMARY/AXIAL）。"
        "已排除 b：定位像，即 ImageType (0008,0008) 的第 3 个值为 LOCALIZER"
    )
    (result,) = series_of(page.upload(*files))
    assert result["reason_language"] == "en"
    assert result["reason"] == (
        "no CT slice can be read. "
        "left out: 0, 1, 2 and 2 more: a derived image (ImageType (0008,0008) DERIVED/PRIMARY/AXIAL). "
        "left out: b: a localizer (ImageType (0008,0008) value 3)"
    )


def test_pictures_that_are_left_out_are_said_in_chinese(page):
    files = [("1.png", png()), ("2.png", png()), ("3.png", png(size=(30, 40)))]
    (result,) = in_chinese(page, *files, as_series="yes")
    check_report(result, {"已排除 3.png：大小不是多数图像的 30 × 40 像素。"})
    (result,) = in_chinese(page, ("4.png", png()[:50]), as_series="yes")
    assert (result["state"], result["reason_language"]) == ("error", "zh")
    assert result["reason"].startswith("未能读取任何图像。已排除 4.png：图像损坏或不完整（")


def test_too_little_memory_is_said_in_chinese(page, volume, monkeypatch):
    from ladnn_tf.data import volumes

    def read(path):
        raise MemoryError

    monkeypatch.setattr(volumes, "read_series", read)
    (result,) = in_chinese(page, ("a.nii", nifti(volume)))
    assert (result["reason"], result["reason_language"]) == ("内存不足，无法读取", "zh")


def put(at, kind, *values):
    """What writes values into a file."""

    def write(content):
        written = bytearray(content)
        struct.pack_into(f"<{kind}", written, at, *values)
        return bytes(written)

    return write


def turned(degrees):
    """What turns the axes of y and z around x: srow_y and srow_z of nifti1.h."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return put(296, "8f", 0, -cosine, -5 * sine, 0, 0, -sine, 5 * cosine, 0)


@pytest.mark.parametrize(
    ("damage", "chinese"),
    [
        (
            put(252, "hh", 0, 0),
            "sform_code 与 qform_code 均为 0：文件中没有方向信息；三个轴按指向左、前、头处理。",
        ),
        (turned(20), "图像轴与人体轴相差 20.0 度；保持原样。"),
        (turned(30), "图像轴与人体轴相差 30 度（sform 或 qform）；最多读取 25 度；请重采样"),
        (
            put(40, "5h", 4, 16, 16, 1, 2),
            "每个文件只读取一个三维体数据，而该文件的 dim 为 [4, 16, 16, 1, 2, 1, 1, 1]",
        ),
        (put(70, "h", 128), "数据类型 datatype [('R', 'u1'), ('G', 'u1'), ('B', 'u1')] 不是普通数值；"),
        (
            lambda content: content[:452],
            "按 dim 与 datatype 需要 1,024 字节，而文件只有（或解压后至多为）452 字节：文件不完整，或不是 CT",
        ),
        (lambda content: content[:-1], "文件不完整：第 2 层（共 2 层）缺少数据；请重新复制"),
        (put(280, "f", 0), "仿射矩阵（sform、qform 或 pixdim）不是大于 0 的有效数值"),
        (
            put(123, "B", 1),
            "体素大小为 [1000. 1000. 5000.] mm（pixdim、sform 与 xyzt_units）；仅读取 0.001 至 100 mm",
        ),
    ],
)
def test_what_is_odd_about_nifti_is_said_in_chinese(page, damage, chinese):
    content = nifti((np.zeros((2, 16, 16)), (5.0, 1.0, 1.0)))
    (result,) = in_chinese(page, ("a.nii", damage(content)))
    if result["state"] == "error":
        assert result["reason_language"] == "zh"
        assert result["reason"].startswith(chinese)
    else:
        check_report(result, {chinese})


def test_damaged_and_incomplete_nifti_is_said_in_chinese(page, volume):
    import nibabel

    content = gzip.compress(nifti(volume))
    (result,) = in_chinese(page, ("a.nii.gz", content[: len(content) // 2]))
    assert result["reason_language"] == "zh"
    assert re.fullmatch(r"NIfTI 文件已损坏（.+）；请从来源处重新复制", result["reason"])
    values = np.zeros((16, 16, 5), np.float32)
    values[0, 0, 0] = np.nan
    (result,) = in_chinese(
        page, ("b.nii", nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])).to_bytes())
    )
    check_report(result, {"0.08% 的体素不是有效数值，按空气（-1000 HU）处理。"})
