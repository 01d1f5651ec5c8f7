"""The data collection: what is stored, withdrawn, refused, and left by a kill."""

import contextlib
import errno
import hashlib
import io
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading

import collection_process
import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPOSITORY
from contributions import KEPT, contribution, files, image, image_files, noise
from PIL import Image, PngImagePlugin
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.data.preprocess import decode, encode_png
from ladnn_tf.data.quality import refusal
from ladnn_tf.labels import LESIONS
from serving.collection import consent
from serving.collection.files import image_path
from serving.collection.images import CORNERS, Erasure, erase, prepare
from serving.collection.store import (
    Collection,
    CollectionError,
    Contribution,
    UncertainError,
    UnknownContributionError,
)
from serving.collection.tables import CONTRIBUTIONS

SECRET = "Erika Mustermann"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def query(folder, statement):
    with contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement)]


def contributions(folder):
    return query(folder, "SELECT * FROM ladnn_contributions ORDER BY number")


# Pictures


def test_erased_corners_are_rounded_up_to_whole_pixels():
    # 15 % of 10 rows are 1.5, so 2; of 20 columns 3.
    white = np.full((10, 20, 3), 255, np.uint8)
    for corner, rows, columns in (
        ("top_left", slice(0, 2), slice(0, 3)),
        ("top_right", slice(0, 2), slice(17, 20)),
        ("bottom_left", slice(8, 10), slice(0, 3)),
        ("bottom_right", slice(8, 10), slice(17, 20)),
    ):
        erased = erase(white, Erasure((corner,), 15))
        assert (erased[rows, columns] == 0).all()
        assert (erased == 0).all(axis=-1).sum() == 6
    assert (erase(white, Erasure(CORNERS, 15)) == 0).all(axis=-1).sum() == 24
    assert (white == 255).all()


def test_seven_percent_of_a_hundred_are_seven():
    # 0.07 * 100 is 7.000000000000001 in floating point.
    assert (erase(np.full((100, 100, 3), 9, np.uint8), Erasure(("top_left",), 7)) == 0).all(axis=-1).sum() == 49


def test_erasing_nothing_and_erasing_most():
    pixels = noise(1, (7, 5))
    assert (erase(pixels, Erasure()) == pixels).all()
    # 30 % of 7 rows are 2.1, so 3; of 5 columns 1.5, so 2: one row and one column stay.
    left = (erase(np.full((7, 5, 3), 255, np.uint8), Erasure(CORNERS, 30)) > 0).all(axis=-1)
    assert left.sum() == 7 + 5 - 1


@pytest.mark.parametrize("arguments", [(("middle",), 15), (("top_left",), 4), (("top_left",), 31)])
def test_an_erasure_that_is_not_offered_is_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        Erasure(*arguments)


def chunks(png):
    found, place = [], 8
    while place < len(png):
        length = int.from_bytes(png[place : place + 4])
        found.append(png[place + 4 : place + 8])
        place += 12 + length
    return found


def with_metadata(kind):
    exif = Image.Exif()
    exif[0x010E] = SECRET  # ImageDescription
    exif.get_ifd(0x8825)[1] = "N"  # GPS latitude
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 14.0)
    content = io.BytesIO()
    options = {"exif": exif, "icc_profile": SECRET.encode()}
    if kind == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_text("Patient", SECRET)
        text.add_itxt("Comment", SECRET, zip=True)
    else:
        options["comment"] = SECRET.encode()
    Image.fromarray(noise(3)).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_metadata_survives(kind):
    encoded = with_metadata(kind)
    assert SECRET.encode() in encoded
    assert Image.open(io.BytesIO(encoded)).getexif().get_ifd(0x8825)
    prepared = prepare(decode(encoded + SECRET.encode()))  # and something behind the picture's end
    assert set(chunks(prepared.png)) == {b"IHDR", b"IDAT", b"IEND"}
    assert prepared.png.endswith(b"IEND\xaeB`\x82")
    assert SECRET.encode() not in prepared.png
    assert (decode(prepared.png) == decode(encoded)).all()
    assert prepared.sha256 == hashlib.sha256(prepared.png).hexdigest()


def test_grey_is_stored_as_grey_and_colour_as_colour():
    grey = np.repeat(noise(4)[..., :1], 3, axis=-1)
    almost = grey.copy()
    almost[5, 6, 2] ^= 1
    for pixels, mode in ((grey, "L"), (almost, "RGB")):
        prepared = prepare(pixels)
        assert Image.open(io.BytesIO(prepared.png)).mode == mode
        assert (decode(prepared.png) == pixels).all()
        assert (prepared.width, prepared.height) == (48, 40)


def test_equal_pixels_have_one_hash_whatever_their_file():
    pixels = noise(5)
    one, other = prepare(pixels), prepare(decode(encode_png(pixels, 9)))
    turned = prepare(pixels.reshape(48, 40, 3))
    assert one.pixels_sha256 == other.pixels_sha256 != turned.pixels_sha256


def test_a_picture_is_judged_before_its_corners_are_erased():
    pixels, erasure = decode(example_png()), Erasure(CORNERS, 30)
    assert refusal(erase(pixels, erasure))
    assert prepare(pixels, erasure).refusal == ""
    assert prepare(noise(6), erasure).refusal.startswith("in colour")


# Storing and withdrawing


def test_what_is_stored(collection, folder):
    images = (image(1), image(2, Erasure(("top_left", "bottom_right"), 20)), image(1))
    given = Contribution(
        images, consent.consent("zh"), True, {"GGO": True, "CrPa": False, "AirBr": None}, " Case  7 ", "anna"
    )
    receipt = collection.add(given)
    (row,) = contributions(folder)
    assert row | {"patient_hash": "-"} == {
        "number": 1,
        "id": receipt.contribution,
        "receipt_sha256": hashlib.sha256(receipt.text.replace("-", "").encode()).hexdigest(),
        "created": receipt.created,
        "consent_version": "1",
        "consent_sha256": consent.consent("zh").sha256,
        "consent_language": "zh",
        "covid": 1,
        "GGO": 1,
        "Csld": None,
        "CrPa": 0,
        "AirBr": None,
        "InSepThi": None,
        "patient_hash": "-",
        "contributor": "anna",
        "withdrawn": None,
    }
    rows = query(folder, "SELECT * FROM ladnn_images ORDER BY position")
    assert [(r["contribution"], r["position"], r["sha256"]) for r in rows] == [
        (1, 0, images[0].sha256),
        (1, 1, images[1].sha256),
    ]
    assert [(r["width"], r["height"], r["erased_corners"], r["erased_percent"]) for r in rows] == [
        (48, 40, "", 0),
        (48, 40, "top_left,bottom_right", 20),
    ]
    assert rows[0]["refusal"] == images[0].refusal
    assert (receipt.images, collection.count()) == (2, 1)
    assert image_path(folder, images[1].sha256).read_bytes() == images[1].png
    assert len(files(folder)) == len(KEPT) + 2


def test_the_patient_code_is_kept_as_a_keyed_hash_alone(collection, folder, tmp_path):
    for code in ("Case  7", " case 7 ", "\uff23\uff41se 7", "case 8", ""):
        collection.add(contribution(1, patient_code=code))
    hashes = [row["patient_hash"] for row in contributions(folder)]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert hashes[4] is None
    with Collection(tmp_path / "other") as other:
        other.add(contribution(1, patient_code="Case  7"))
    assert contributions(tmp_path / "other")[0]["patient_hash"] != hashes[0]
    content = (folder / "collection.sqlite").read_bytes() + (folder / "collection.sqlite-wal").read_bytes()
    assert b"case 7" not in content.lower()


def test_a_withdrawal_takes_everything_but_that_there_was_a_contribution(collection, folder):
    receipt = collection.add(
        contribution(1, 2, covid=True, lesions=dict.fromkeys(LESIONS, False), patient_code="7", contributor=SECRET)
    )
    withdrawal = collection.withdraw(receipt.text)
    assert (withdrawal.contribution, withdrawal.images) == (receipt.contribution, 2)
    (row,) = contributions(folder)
    assert row["withdrawn"] == withdrawal.withdrawn
    assert {row[name] for name in ("covid", *LESIONS, "patient_hash")} == {None}
    assert row["contributor"] == ""
    assert query(folder, "SELECT * FROM ladnn_images") == []
    assert files(folder) == KEPT
    assert collection.count() == 0
    for database_file in folder.glob("collection.sqlite*"):
        assert SECRET.encode() not in database_file.read_bytes()
        assert image(1).sha256.encode() not in database_file.read_bytes()


def test_a_withdrawn_contribution_can_be_withdrawn_again_and_an_unknown_one_cannot(collection):
    receipt = collection.add(contribution(1))
    first = collection.withdraw_by_id(receipt.contribution)
    again = collection.withdraw(receipt.text)
    assert (first.images, again.images, again.withdrawn) == (1, 0, first.withdrawn)
    for wrong in ("", receipt.contribution, receipt.text[:-1], "0" * 25):
        with pytest.raises(UnknownContributionError, match="receipt"):
            collection.withdraw(wrong)
    with pytest.raises(UnknownContributionError, match="id"):
        collection.withdraw_by_id(receipt.text)


def test_a_receipt_is_read_as_people_copy_it(collection, monkeypatch):
    monkeypatch.setattr(
        "serving.collection.store.secrets.choice", lambda digits: digits[int(len(digits) > 20) or 1]
    )
    receipt = collection.add(contribution(1))
    assert receipt.text == "11111-11111-11111-11111-11111"
    # l and I for 1, full-width digits of a Chinese keyboard, spaces and lines between them
    assert collection.withdraw(" lIlI1 11111\n11111-\uff11\uff11\uff11\uff11\uff11\u201411111 ").images == 1


def test_an_image_of_two_contributions_stays_until_both_are_withdrawn(collection, folder):
    first, second = collection.add(contribution(1, 2)), collection.add(contribution(2, 3))
    collection.withdraw(first.text)
    assert files(folder) == sorted(KEPT + image_files(2, 3))
    collection.withdraw(second.text)
    assert files(folder) == KEPT


def test_threads_that_give_and_withdraw_the_same_image_leave_it_to_the_one_who_keeps_it(collection, folder):
    collection.add(contribution(1))
    failed = []

    def work():
        try:
            for _ in range(3):
                collection.withdraw(collection.add(contribution(1, 2)).text)
        except Exception as error:  # noqa: BLE001 (any of them fails the test)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert files(folder) == sorted(KEPT + image_files(1))
    assert collection.count() == 1


@pytest.mark.parametrize(
    "given",
    [
        {"images": ()},
        {"images": (image(1),), "lesions": {"nodule": True}},
        {"images": (image(1),), "patient_code": "x" * 65},
    ],
)
def test_a_contribution_that_makes_no_sense_is_refused(given):
    with pytest.raises(ValueError, match=r"image|lesions|characters"):
        Contribution(consent=consent.consent("en"), **given)


def test_the_published_consent_texts_are_not_changed():
    # A change of a word is a new version: see `serving/collection/consent/__init__.py`.
    assert {(v, language): consent.consent(language, v).sha256 for v in ("1",) for language in ("en", "zh")} == {
        ("1", "en"): "c69bca5eca82b2b64e06fe25e104fa8b7344fbd0b9d1e1d1c35895939040751b",
        ("1", "zh"): "2f1993ba01239bea831ddeb719bd1ab36057a08bf062fdcb0cfc0116c8de2b98",
    }
    assert consent.shown(consent.consent("zh").sha256) == consent.consent("zh")
    assert consent.shown("0" * 64) is None
    assert len(consent.consent("en").sections) == len(consent.consent("zh").sections) == 5


# The folder and the database


def test_the_database_is_safe_from_power_cuts_and_keeps_nothing_deleted(collection):
    with collection._engine.connect() as connection:
        values = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
            for pragma in ("foreign_keys", "journal_mode", "synchronous", "secure_delete", "temp_store")
        }
    # synchronous 2 is FULL, temp_store 2 is MEMORY
    assert values == {
        "foreign_keys": 1,
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "temp_store": 2,
    }


def test_the_folder_is_its_owner_s_alone(folder):
    before = os.umask(0)
    try:
        with Collection(folder) as collection:
            collection.add(contribution(1))
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
            directories = {path for path in modes if path.is_dir()}
    finally:
        os.umask(before)
    assert {modes[path] for path in directories} == {0o700}
    assert {mode for path, mode in modes.items() if path not in directories} == {0o600}
    assert any(path.name == "collection.sqlite-wal" for path in modes)


def test_an_empty_folder_that_others_can_read_is_closed_to_them(folder):
    folder.mkdir(mode=0o755)
    with Collection(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_something_else_is_left_as_it_is(folder):
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other files \(thesis\.txt\)"):
        Collection(folder)
    assert files(folder) == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_is_used_once_at_a_time(collection, folder):
    with pytest.raises(ValueError, match="used by another process"):
        Collection(folder)
    collection.close()
    Collection(folder).close()


def test_the_key_and_the_database_belong_together(folder, tmp_path):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    key = folder / "collection.key"
    right = key.read_bytes()
    key.unlink()
    with pytest.raises(FileNotFoundError, match=r"collection\.key is missing; copy it back"):
        Collection(folder)
    for wrong, message in ((b"00" * 31, "damaged"), (b"x", "damaged"), (b"00" * 32, "another data folder")):
        key.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            Collection(folder)
    key.write_bytes(right)
    (folder / "collection.sqlite").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"the database is empty, but .* holds images"):
        Collection(folder)
    assert files(folder) == sorted(KEPT + image_files(1))
    with Collection(folder, f"sqlite:///{tmp_path / 'away'}") as collection:
        assert collection.count() == 1


def test_an_older_database_takes_no_image_away(folder, tmp_path):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    shutil.copy(folder / "collection.sqlite", tmp_path / "backup")
    with Collection(folder) as collection:
        collection.add(contribution(2))
    shutil.copy(tmp_path / "backup", folder / "collection.sqlite")
    with Collection(folder) as collection:
        assert collection.count() == 1
    assert files(folder) == sorted(KEPT + image_files(1, 2))


@pytest.mark.parametrize(("dialect", "quoted"), [(postgresql, '"GGO"'), (mysql, "`GGO`"), (sqlite, '"GGO"')])
def test_the_tables_are_those_of_other_databases_too(dialect, quoted):
    statement = str(CreateTable(CONTRIBUTIONS).compile(dialect=dialect.dialect()))
    assert f"CHECK ({quoted} IN (0, 1))" in statement


@pytest.mark.parametrize("values", [{"GGO": 2}, {"covid": -1}])
def test_a_label_is_one_nought_or_unknown(collection, values):
    collection.add(contribution(1))
    with pytest.raises(sa.exc.IntegrityError), collection._engine.begin() as connection:
        connection.execute(sa.update(CONTRIBUTIONS).values(values))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "none that SQLAlchemy reads"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("nosuch://host/name", "does not know the kind of database 'nosuch'"),
    ],
)
def test_a_database_that_cannot_be_is_refused(folder, url, message):
    with pytest.raises(ValueError, match=message):
        Collection(folder, url)
    Collection(folder).close()  # the folder is free again


def test_a_driver_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match="needs the Python package 'psycopg'"):
        Collection(folder, "postgresql+psycopg://user:password@host/name")


def test_a_damaged_database_and_one_of_another_version_are_refused(folder):
    Collection(folder).close()
    with contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as connection, connection:
        connection.execute("UPDATE ladnn_collection SET schema_version = 2")
    with pytest.raises(ValueError, match="version 2 of the tables; this program knows version 1"):
        Collection(folder)
    (folder / "collection.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CollectionError, match="not a database"):
        Collection(folder)


# Failures


@contextlib.contextmanager
def files_of_at_most(size):
    """As a full disk: a file that would grow beyond `size` bytes is not written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_for_an_image_stores_nothing(collection, folder):
    assert len(image(2).png) > 4096
    with (
        files_of_at_most(4096),
        pytest.raises(CollectionError, match=r"nothing of the contribution was stored.*large"),
    ):
        collection.add(contribution(2))
    assert files(folder) == KEPT
    assert (collection.count(), contributions(folder)) == (0, [])
    collection.add(contribution(2))
    assert collection.count() == 1


def test_a_disk_without_room_for_the_record_stores_nothing(collection, folder):
    collection.add(contribution(1))
    room = max(path.stat().st_size for path in folder.glob("collection.sqlite-wal"))
    with files_of_at_most(room), pytest.raises(CollectionError, match="nothing of the contribution was stored"):
        collection.add(contribution(2))
    assert files(folder) == sorted(KEPT + image_files(1))
    collection.add(contribution(2))
    assert collection.count() == 2


def test_a_locked_database_stores_nothing_and_withdraws_nothing(folder):
    with (
        Collection(folder, f"sqlite:///{folder / 'collection.sqlite'}?timeout=0") as collection,
        contextlib.closing(sqlite3.connect(folder / "collection.sqlite")) as other,
    ):
        receipt = collection.add(contribution(1))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CollectionError, match="nothing of the contribution was stored: database is locked"):
            collection.add(contribution(2))
        with pytest.raises(CollectionError, match="withdrawal failed; try it again: database is locked"):
            collection.withdraw(receipt.text)
        assert collection.count() == 1
        assert [name for name in files(folder) if name.startswith("images")] == image_files(1)
        other.rollback()
        assert collection.withdraw(receipt.text).images == 1
    assert files(folder) == KEPT


def break_commit(collection, *, before):
    """Makes the next commit fail, before or after the database has done it."""
    engine = collection._engine
    dialect = engine.dialect

    def commit(connection):
        dialect.do_commit = original
        if not before:
            original(connection)
        raise sa.exc.OperationalError("COMMIT", None, OSError(errno.ECONNRESET, "connection lost"))

    original, dialect.do_commit = dialect.do_commit, commit


@pytest.mark.parametrize("before", [True, False])
def test_a_connection_lost_in_the_commit_leaves_nothing(collection, folder, before):
    break_commit(collection, before=before)
    with pytest.raises(CollectionError, match=r"nothing of the contribution was stored: .*connection lost"):
        collection.add(contribution(1))
    assert contributions(folder) == []
    assert files(folder) == KEPT


def test_a_database_that_stays_away_after_a_commit_names_the_contribution(collection, folder, monkeypatch):
    break_commit(collection, before=False)

    def delete(*_):
        raise sa.exc.OperationalError("DELETE", None, OSError("no route to host"))

    with monkeypatch.context() as patch:
        patch.setattr("serving.collection.store.records.delete", delete)
        with pytest.raises(UncertainError, match="cannot be told") as raised:
            collection.add(contribution(1))
    identity = contributions(folder)[0]["id"]
    assert f"--id={identity}" in str(raised.value)
    assert collection.withdraw_by_id(identity).images == 1
    assert files(folder) == KEPT


def test_files_that_cannot_be_cleared_away_are_at_the_next_start(folder, monkeypatch, caplog):
    with Collection(folder) as collection:
        receipt = collection.add(contribution(1))
        with monkeypatch.context() as patch:
            patch.setattr(
                "serving.collection.store.records.unused",
                lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")),
            )
            assert collection.withdraw(receipt.text).images == 1
        assert "cleared away at the next start (Input/output error)" in caplog.text
        assert set(image_files(1)) < set(files(folder))
    Collection(folder).close()
    assert files(folder) == KEPT


@pytest.mark.parametrize("before", [True, False])
def test_a_withdrawal_whose_connection_is_lost_can_be_done_again(collection, folder, before):
    receipt = collection.add(contribution(1))
    break_commit(collection, before=before)
    with pytest.raises(CollectionError, match=r"try it again: .*connection lost"):
        collection.withdraw(receipt.text)
    assert files(folder) == (sorted(KEPT + image_files(1)) if before else KEPT)
    assert collection.withdraw(receipt.text).images == int(before)
    assert files(folder) == KEPT


# Kills


def test_half_written_files_are_cleared_away(folder):
    with Collection(folder) as collection:
        collection.add(contribution(1))
    (folder / ".collection.key.abcd_123").write_bytes(b"half")
    name = image(2).sha256
    half = folder / "images" / name[:2]
    half.mkdir()
    (half / f".{name}.png.abcd_123").write_bytes(b"half")
    (half / f".{name}.png.efgh_456").write_bytes(b"half")
    (folder / "pending" / ("0" * 16)).write_text(f"{name}\n{image(1).sha256}\n")
    (folder / "pending" / f".{'1' * 16}.abcd_123").write_text(name[:9])
    Collection(folder).close()
    assert files(folder) == sorted(KEPT + image_files(1))


def test_a_damaged_note_is_said(folder):
    Collection(folder).close()
    (folder / "pending" / ("0" * 16)).write_text("../../thesis\n")
    with pytest.raises(ValueError, match="is damaged"):
        Collection(folder)


def test_a_kill_before_the_key_is_whole_is_no_folder_of_something_else(folder):
    folder.mkdir()
    (folder / ".collection.key.abcd_123").write_bytes(b"half")
    Collection(folder).close()
    assert files(folder) == KEPT


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folders that killed processes left."""
    folder = tmp_path_factory.mktemp("killed")
    script = REPOSITORY / "tests" / "collection_process.py"
    done = subprocess.run(
        [sys.executable, script, folder],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(collection_process.KILLS)
    return folder


@pytest.mark.parametrize("kill", collection_process.KILLS, ids=lambda kill: collection_process.name(*kill))
def test_a_kill_leaves_whole_contributions_and_no_other_file(killed, kill):
    change, step, _ = kill
    folder = killed / collection_process.name(*kill)
    done = step == "settle"
    with Collection(folder) as collection:
        if change == "add":
            assert collection.count() == 1 + done
            expected = image_files(0, 1, 2, 3) if done else image_files(0, 1)
        else:
            assert collection.count() == 1 - done
            expected = [] if done else image_files(0, 1)
        assert files(folder) == sorted(KEPT + expected)
        rows = query(
            folder,
            "SELECT number, position, covid FROM ladnn_images JOIN ladnn_contributions ON"
            " number = contribution WHERE withdrawn IS NULL ORDER BY number, position",
        )
        whole = [] if change == "withdraw" and done else [(1, 0, 1), (1, 1, 1)]
        whole += [(2, position, 0) for position in range(3)] if change == "add" and done else []
        assert [tuple(row.values()) for row in rows] == whole
        for name in expected:
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == (folder / name).stem
        collection.add(contribution(5))  # and it goes on
