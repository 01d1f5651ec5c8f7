import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ladnn_tf.data import phantom_volume as module
from ladnn_tf.data.phantom_volume import phantom_volume, write_volume

SLICES, SIZE = 30, 64


@pytest.fixture(scope="module")
def covid():
    return phantom_volume(slices=SLICES, size=SIZE, seed=4)


@pytest.fixture(scope="module")
def bacterial():
    return phantom_volume(slices=SLICES, size=SIZE, diagnosis="bacterial", seed=4)


def _centre(mask):
    """Mean position (z, y, x) of a mask's voxels as parts of the volume's sides."""
    return np.array([axis.mean() for axis in np.nonzero(mask)]) / mask.shape


def test_shape_spacing_and_masks(covid):
    hu, spacing_mm, masks = covid
    assert (hu.shape, hu.dtype) == ((30, 64, 64), np.float32)
    # 300 mm in 30 slices; the pixel is the field of view's, 240 to 422 mm in 64.
    assert spacing_mm[0] == 10.0
    assert spacing_mm[1] == spacing_mm[2]
    assert 240 / 64 < spacing_mm[1] < 422 / 64
    assert set(masks) == {"lung", "GGO", "Csld", "AirBr"}
    for mask in masks.values():
        assert (mask.shape, mask.dtype) == (hu.shape, bool)
        assert mask.any()
        assert not (mask & ~masks["lung"]).any()
    assert hu.min() > -1200
    assert -900 < np.median(hu[masks["lung"]]) < -750


def test_the_same_seed_draws_the_same_volume_and_another_seed_does_not(covid):
    again, _, masks = phantom_volume(slices=SLICES, size=SIZE, seed=4)
    assert (again == covid[0]).all()
    assert all((masks[name] == covid[2][name]).all() for name in masks)
    other, _, _ = phantom_volume(slices=SLICES, size=SIZE, seed=5)
    assert (other != covid[0]).mean() > 0.9


def test_both_ends_are_without_lung_and_the_chest_between_is_not(covid):
    hu, _, masks = covid
    share = masks["lung"].mean((1, 2))
    # A tenth of 30 slices is three. The one next to the chest may cut the recesses behind the diaphragm.
    assert (share[:2] < 0.005).all()
    assert (share[-3:] == 0).all()
    assert share[2] < 0.06
    assert (share[3:24] > 0.1).all()
    # The picture agrees: air within the body is there in the chest only. Skin to skin, the air around is left out.
    airy = (hu < -600)[:, 20:44, 20:44].mean((1, 2))
    assert (airy[[0, 1, -3, -2, -1]] < 0.12).all()
    assert (airy[6:22] > 0.2).all()
    lesions = (masks["GGO"] | masks["Csld"]).any((1, 2))
    assert not lesions[[0, 1, 2, -3, -2, -1]].any()


def test_z_is_from_feet_to_head_y_to_the_back_and_x_to_the_left(covid):
    hu, _, masks = covid
    body = hu > -300
    # The trachea's air, in the middle of the body, is at the head's end; the stomach's gas at the feet's.
    middle = (hu < -700)[:, 24:40, 30:34]
    assert middle[-6:].any((1, 2)).all()
    assert _centre(hu > 350)[1] > _centre(body)[1] + 0.05  # the spine is behind
    gas = (hu[:2] < -600)[:, 20:44, 16:48]
    assert gas.any()
    _, y, x = _centre(gas)
    assert y < 0.4  # in the stomach: in front, on the left
    assert x > 0.55
    heart = (hu[8:14] > 0) & ~masks["lung"][8:14]
    lungs = masks["lung"][8:14]
    right, left = lungs[..., :32].sum(), lungs[..., 32:].sum()
    assert heart.any()
    assert left < right  # the heart takes from the left lung


def test_lesions_go_on_from_slice_to_slice(covid):
    dense = covid[2]["Csld"] | covid[2]["GGO"]
    shared = [
        2 * (low & high).sum() / (low.sum() + high.sum())
        for low, high in itertools.pairwise(dense)
        if low.any() and high.any()
    ]
    assert len(shared) >= 8
    assert np.median(shared) > 0.3


def test_diagnoses(covid, bacterial):
    hu, _, masks = bacterial
    assert set(masks) == {"lung", "GGO", "Csld", "AirBr", "effusion"}
    columns = np.nonzero(masks["Csld"])[2]
    fluid = np.nonzero(masks["effusion"])[2]
    assert columns.max() < 36 or columns.min() > 28
    assert (columns.mean() > 32) == (fluid.mean() > 32)
    # Another disease in the same body.
    same = ~(masks["lung"] | covid[2]["lung"] | masks["effusion"])
    assert (np.abs(hu - covid[0])[same] < 300).mean() > 0.98
    _, _, healthy = phantom_volume(slices=10, size=SIZE, diagnosis="normal", findings=("GGO", "nodule"), seed=4)
    assert set(healthy) == {"lung", "nodule"}


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="diagnosis should be one of covid19, bacterial, normal"):
        phantom_volume(diagnosis="flu")
    with pytest.raises(ValueError, match="format should be one of dicom, nifti, pictures"):
        write_volume(tmp_path / "a", "tiff")
    assert not list(tmp_path.iterdir())


def _write(folder: Path, form: str) -> None:
    """By the command."""
    arguments = [f"--out={folder}", f"--format={form}", "--slices=10", "--size=64", "--seed=7"]
    assert module.main(["phantom_volume", *arguments]) == 0


@pytest.fixture(scope="module")
def small():
    hu, spacing_mm, _ = phantom_volume(slices=10, size=64, seed=7)
    return hu, spacing_mm


def test_dicom(tmp_path, capsys, small):
    pydicom = pytest.importorskip("pydicom")
    _write(tmp_path / "series", "dicom")
    assert capsys.readouterr().out.endswith(f"\nseries  {tmp_path / 'series'}\n")
    paths = sorted((tmp_path / "series").iterdir())
    datasets = [pydicom.dcmread(path) for path in paths]
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in datasets]
    assert heights != sorted(heights)
    order = np.argsort(heights)
    stored = np.stack(
        [
            datasets[i].pixel_array * float(datasets[i].RescaleSlope) + float(datasets[i].RescaleIntercept)
            for i in order
        ]
    )
    assert (stored == np.rint(small[0])).all()
    assert [float(step) for step in datasets[0].PixelSpacing] == pytest.approx(small[1][1:], rel=1e-4)
    assert np.diff(np.sort(heights)) == pytest.approx(30.0)


def test_nifti(tmp_path, capsys, small):
    nibabel = pytest.importorskip("nibabel")
    _write(tmp_path / "series", "nifti")
    image = nibabel.load(capsys.readouterr().out.split()[-1])
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == pytest.approx(small[1][::-1], rel=1e-4)
    assert (np.asarray(image.dataobj).transpose(2, 1, 0) == np.rint(small[0])).all()


def test_pictures_are_named_in_order_from_the_feet(tmp_path, small):
    _write(tmp_path / "series", "pictures")
    paths = sorted((tmp_path / "series").iterdir())
    assert [path.name for path in paths] == [f"slice-{number:02d}.png" for number in range(1, 11)]
    for path, hu in zip(paths, small[0], strict=True):
        # The lung window: -1350 HU is black, 150 HU white.
        expected = np.clip((np.rint(hu) + 1350) / 1500, 0, 1) * 255
        assert np.abs(np.asarray(Image.open(path)) - expected).max() <= 0.51


def test_a_missing_package_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[dicom\]' in the project's folder"):
        write_volume(tmp_path / "series", "nifti", slices=10, size=64)
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        write_volume(tmp_path, "pictures", slices=10, size=64)
