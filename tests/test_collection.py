"""The data collection: what is stored and withdrawn, and what is refused."""

import hashlib
import threading

import pytest
from contributions import KEPT, OPERATOR, contribution, contributions, files, image, image_files, query

from ladnn_tf.labels import LESIONS
from serving.collection.consent import consent
from serving.collection.contribution import Contribution, UnknownContributionError
from serving.collection.files import image_path
from serving.collection.images import Erasure
from serving.collection.store import Collection

SECRET = "Erika Mustermann"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def collection(folder):
    with Collection(folder) as opened:
        yield opened


def test_what_is_stored(collection, folder):
    images = (image(1), image(2, Erasure(("top_left", "bottom_right"), 20)), image(1))
    given = Contribution(
        images, consent("zh", OPERATOR), True, {"GGO": True, "CrPa": False, "AirBr": None}, " Case  7 ", "anna"
    )
    receipt = collection.add(given)
    (row,) = contributions(folder)
    assert row | {"patient_hash": "-"} == {
        "number": 1,
        "id": receipt.contribution,
        "receipt_sha256": hashlib.sha256(receipt.text.replace("-", "").encode()).hexdigest(),
        "created": receipt.created,
        "consent_version": "1",
        "consent_sha256": consent("zh", OPERATOR).sha256,
        "consent_language": "zh",
        "operator": OPERATOR,
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


def test_what_is_taken_back_has_never_been(collection, folder):
    kept, gone = collection.add(contribution(1)), collection.add(contribution(1, 2, contributor=SECRET))
    collection.take_back(gone.contribution)
    assert [row["id"] for row in contributions(folder)] == [kept.contribution]
    assert len(query(folder, "SELECT * FROM ladnn_images")) == 1
    assert files(folder) == sorted(KEPT + image_files(1))
    for database_file in folder.glob("collection.sqlite*"):
        assert SECRET.encode() not in database_file.read_bytes()
    for unknown in (gone.contribution, ""):
        with pytest.raises(UnknownContributionError, match="id"):
            collection.take_back(unknown)
    with pytest.raises(UnknownContributionError, match="receipt"):
        collection.withdraw(gone.text)


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
        "serving.collection.receipts.secrets.choice", lambda digits: digits[int(len(digits) > 20) or 1]
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
        Contribution(consent=consent("en", OPERATOR), **given)
