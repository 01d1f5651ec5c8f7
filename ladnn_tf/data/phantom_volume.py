"""One phantom patient as a whole CT series, from the belly to the neck; and its command.

    python -m ladnn_tf.data.phantom_volume --out=data/series --diagnosis=covid19 --format=dicom

writes what a scanner sends (DICOM), NIfTI or pictures, to try the reading of series on without anybody's consent.
The lowest and the highest tenth of the slices show no lung, or nearly none, as in a real series.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import flags, logging
from PIL import Image

from ladnn_tf import command
from ladnn_tf.data.phantom_anatomy import (
    AIR,
    FAT,
    MUSCLE,
    Anatomy,
    Patient,
    cavity_radius,
    draw_anatomy,
    sample_patient,
)
from ladnn_tf.data.phantom_bacterial import (
    BACTERIAL_AREA_LIMIT,
    Pneumonia,
    draw_pneumonia,
    fill_lung,
    sample_pneumonia,
)
from ladnn_tf.data.phantom_files import whole_folder
from ladnn_tf.data.phantom_painter import Painter, ellipse, polar
from ladnn_tf.data.phantom_scanner import smooth_noise
from ladnn_tf.data.phantom_slice import Slice, compose_slice, draw_slice
from ladnn_tf.data.volume import display, needs_dicom
from ladnn_tf.labels import CLASSES, LESIONS

_USAGE = (
    "python -m ladnn_tf.data.phantom_volume --out=DIR [--slices=60] [--size=512]"
    " [--diagnosis=covid19|bacterial|normal] [--format=dicom|nifti|pictures]"
)

FORMATS = ("dicom", "nifti", "pictures")

HEIGHT = 300.0
"""What the series covers from the lowest to the highest slice's border, mm."""

DIAPHRAGM, ARCH, APEX = 0.10, 0.82, 0.90
"""Where the lungs begin, the aortic arch stands and the lungs end, as parts of the way from the feet's end up."""

_BELLY_RECESS = 0.4  # of the belly's height: how far the lungs reach down behind the diaphragm's dome
_LIVER, _STOMACH = 60.0, 25.0

_NIFTI_NAME = "phantom.nii.gz"


def phantom_volume(
    *,
    slices: int = 60,
    size: int = 256,
    diagnosis: str = "covid19",
    findings: Collection[str] = ("GGO", "Csld", "AirBr"),
    seed: int = 0,
) -> tuple[np.ndarray, tuple[float, float, float], dict[str, np.ndarray]]:
    """Draws a patient's chest slice by slice.

    Args:
        slices: how many; they cover `HEIGHT` mm, so 60 are 5 mm thick.
        size: side of the slices in pixels.
        diagnosis: of `CLASSES`.
        findings: as `phantom_slice.draw_slice` takes them. The lesions among them are COVID-19's and left out for
            another diagnosis: bacterial pneumonia has its own.
        seed: of everything.

    Returns:
        (slices, size, size) float32 HU, z from feet to head, y to the back, x to the patient's left; the spacing
        (z, y, x), mm; and the exact masks, (slices, size, size) bool: "lung", the lesions and the other findings.

    Raises:
        ValueError: for an unknown diagnosis or finding, or too small slices.
    """
    if diagnosis not in CLASSES:
        raise ValueError(f"diagnosis should be one of {', '.join(CLASSES)}. Received: {diagnosis!r}")
    rng = np.random.default_rng([seed, 30])
    patient = replace(sample_patient(*rng.spawn(2)), circular=False)
    pneumonia = sample_pneumonia(rng, effusion=True, bilateral=False, patchy=False)
    middle = rng.uniform(0.65, 0.85)
    if diagnosis != "covid19":
        findings = [finding for finding in findings if finding not in LESIONS]
    hu = np.empty((slices, size, size), np.float32)
    masks = {"lung": np.zeros(hu.shape, bool)}
    for index in range(slices):
        if index % 50 == 0:
            logging.info("drawing slice %d of %d", index + 1, slices)
        height = (index + 0.5) / slices
        ill = pneumonia if diagnosis == "bacterial" else None
        drawn = _draw(patient, ill, findings, height, middle, seed, index, size)
        hu[index] = drawn.hu
        for name, mask in {"lung": drawn.lung, **drawn.lesions, **drawn.others}.items():
            masks.setdefault(name, np.zeros(hu.shape, bool))[index] = mask
    pixel = patient.view.field_of_view / size
    return hu, (HEIGHT / slices, pixel, pixel), masks


def _draw(
    patient: Patient,
    pneumonia: Pneumonia | None,
    findings: Collection[str],
    height: float,
    middle: float,
    seed: int,
    index: int,
    size: int,
) -> Slice:
    """A slice at a part of the way from the feet's end up; `middle` is the level where the illness is worst."""
    slice_seed, lesion_seed = [seed, 31, index], [seed, 32]
    if not DIAPHRAGM <= height < ARCH:
        rng = np.random.default_rng(slice_seed)
        anatomy = _belly(patient, height, size, rng) if height < ARCH else _neck(patient, height, size, rng)
        return compose_slice(patient, anatomy, {}, (), float(height < ARCH), rng)
    level = (ARCH - height) / (ARCH - DIAPHRAGM)
    extent = float(np.exp(-(((level - middle) / 0.4) ** 2)))
    options = {"level": level, "seed": slice_seed, "size": size, "lesion_seed": lesion_seed}
    if extent < 0.15:
        return draw_slice(patient, [finding for finding in findings if finding not in LESIONS], **options)
    if pneumonia:
        return draw_pneumonia(patient, pneumonia, findings, share=extent * BACTERIAL_AREA_LIMIT, **options)
    return draw_slice(patient, findings, extent=extent, **options)


def _belly(patient: Patient, height: float, size: int, rng: np.random.Generator) -> Anatomy:
    """Below the domes of the diaphragm: liver, stomach with a bubble of gas, fat; lung only in the recesses."""
    anatomy = draw_anatomy(patient, 1.0, size, rng)
    angles = np.linspace(-np.pi, np.pi, 121)
    inner = cavity_radius(patient, 1.0, angles)
    width, depth = patient.half_width, patient.half_depth
    organs = Painter(patient.view, size, FAT)
    organs.polygon(ellipse((-0.42 * width, -0.08 * depth), (0.52 * width, 0.78 * depth)), _LIVER)
    organs.polygon(ellipse((0.38 * width, -0.2 * depth), (0.34 * width, 0.5 * depth), tilt=0.4), _STOMACH)
    organs.polygon(ellipse((0.36 * width, -0.52 * depth), (0.16 * width, 0.12 * depth)), AIR)
    organs.polygon(ellipse((0.62 * width, 0.4 * depth), (0.2 * width, 0.3 * depth), tilt=-0.5), _LIVER)
    organs.polygon(ellipse((0.1 * width, 0.42 * depth), (11, 11)), patient.contrast)
    inside = Painter(patient.view, size, 0.0)
    inside.polygon(polar(angles, inner), 1.0)
    inside.polygon(ellipse((0, 0.72 * depth), (24, 0.24 * depth)), 0.0)
    # Behind the dome the lungs reach further down, as two sickles that grow thin.
    left = max(0.0, 1 - (DIAPHRAGM - height) / (DIAPHRAGM * _BELLY_RECESS))
    recess = (anatomy.periphery > 1 - 0.2 * left) & (anatomy.y > 0.15 * depth) & (anatomy.lung > 0)
    part = inside.pixels() * ~recess
    value = organs.pixels() + 8 * smooth_noise(rng, part.shape, 6 / anatomy.pixel)
    return replace(
        anatomy,
        body=anatomy.body + part * (value - anatomy.body),
        lung=anatomy.lung * (1 - part) * recess,
        vessels=anatomy.vessels * (1 - part) * recess,
        airways=anatomy.airways * (1 - part) * recess,
    )


def _neck(patient: Patient, height: float, size: int, rng: np.random.Generator) -> Anatomy:
    """Above the aortic arch: the lungs' tips, then none, and a body that grows narrower."""
    above = max(0.0, (height - APEX) / (1 - APEX))
    narrow = replace(patient, half_width=patient.half_width * (1 - 0.35 * above), breast=0.0)
    anatomy = draw_anatomy(narrow, 0.0, size, rng)
    tip = np.sqrt(max(0.0, 1 - ((height - ARCH) / (APEX - ARCH)) ** 2))
    apices = Painter(patient.view, size, 0.0)
    if tip > 0:
        for side in (-1, 1):
            centre = (side * 0.42 * patient.half_width, 0.1 * patient.half_depth)
            half_axes = np.array([0.46 * patient.half_width, 1.0 * patient.half_depth]) * tip
            apices.polygon(ellipse(centre, half_axes), 1.0)
    fat = np.clip(smooth_noise(rng, anatomy.lung.shape, 9 / anatomy.pixel), 0, 1)
    return fill_lung(anatomy, 1 - apices.pixels(), MUSCLE + (FAT - MUSCLE) * fat)


def write_volume(
    out: Path,
    form: str,
    *,
    slices: int = 60,
    size: int = 512,
    diagnosis: str = "covid19",
    seed: int = 0,
) -> Path:
    """Draws a series and writes it; the folder appears only when it is whole.

    Args:
        out: the folder; it must not exist or be empty.
        form: of `FORMATS`: DICOM files whose names tell nothing of their order; one NIfTI file; or grey PNG
            pictures of the lung window, named in order from the feet. HU are rounded to whole ones.
        slices, size, diagnosis, seed: as `phantom_volume` takes them.

    Returns:
        The series as `volumes.read_series` takes it: the folder, or the NIfTI file in it.

    Raises:
        FileExistsError: if `out` holds anything already.
        ImportError: if the extra `dicom` is not installed and DICOM or NIfTI is asked for.
        ValueError: as `phantom_volume`, and for an unknown format.
    """
    if form not in FORMATS:
        raise ValueError(f"format should be one of {', '.join(FORMATS)}. Received: {form!r}")
    with whole_folder(Path(out)) as folder:
        hu, spacing_mm, _ = phantom_volume(slices=slices, size=size, diagnosis=diagnosis, seed=seed)
        np.rint(hu, out=hu)  # here and not in the writers, so that DICOM and NIfTI hold the same values
        if form == "dicom":
            _write_dicom(hu, spacing_mm, folder, seed)
        elif form == "nifti":
            _write_nifti(hu, spacing_mm, folder / _NIFTI_NAME)
        else:
            digits = len(str(slices))
            for index, image in enumerate(hu, start=1):
                path = folder / f"slice-{index:0{digits}d}.png"
                Image.fromarray(display(image, -600.0, 1500.0)).save(path, compress_level=1)
    return Path(out, _NIFTI_NAME) if form == "nifti" else Path(out)


def _write_dicom(hu: np.ndarray, spacing_mm: tuple[float, float, float], folder: Path, seed: int) -> None:
    try:
        from ladnn_tf.data.dicom_writer import write_series
    except ImportError as error:
        raise needs_dicom(error) from error
    write_series(hu, spacing_mm, folder, seed=seed)


def _write_nifti(hu: np.ndarray, spacing_mm: tuple[float, float, float], path: Path) -> None:
    try:
        import nibabel
    except ImportError as error:
        raise needs_dicom(error) from error
    # NIfTI counts x to the patient's right as it grows leftwards here, and y to the front as it grows backwards.
    step_z, step_y, step_x = spacing_mm
    affine = np.diag([-step_x, -step_y, step_z, 1.0])
    image = nibabel.Nifti1Image(hu.astype(np.int16).transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("out", None, "folder to write; it must not exist or be empty", required=True, **fv)
    flags.DEFINE_integer("slices", 60, f"slices, which cover {HEIGHT:g} mm together", lower_bound=10, **fv)
    flags.DEFINE_integer("size", 512, "side of the slices in pixels", lower_bound=64, **fv)
    flags.DEFINE_enum("diagnosis", "covid19", CLASSES, "what the patient has", **fv)
    flags.DEFINE_enum("format", "dicom", FORMATS, "what to write", **fv)
    flags.DEFINE_integer("seed", 0, "seed of everything", lower_bound=0, **fv)
    command.parse(flag_values, argv, _USAGE)
    options = {name: flag_values[name].value for name in ("slices", "size", "diagnosis", "seed")}
    path = write_volume(Path(flag_values.out), flag_values.format, **options)
    print(f"{flag_values.slices} slices of a phantom, which show no person\n\nseries  {path}")
    return 0


if __name__ == "__main__":
    command.run(main)
