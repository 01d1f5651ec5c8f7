"""Series on the diagnosis page: uploads of DICOM, NIfTI and pictures of one person, friendly and hostile."""

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
    assert result["report"][-1]["text"].startswith("2 other files in the zip files are no DICOM")
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
    assert [result["state"] for result in response.json()["results"]] == ["answered", "error"]
    assert [result["state"] for result in series_of(response)] == ["answered"]
    assert [line["event"] for line in page.audit()] == ["series", "image", "image", "request"]


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
