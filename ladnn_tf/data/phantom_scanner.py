"""From Hounsfield units to the picture: motion, blur and noise of a scanner, and the display window."""

import numpy as np

from ladnn_tf.data.phantom_anatomy import Anatomy, Patient

OUTSIDE = -2000.0
"""HU of pixels that the scanner did not reconstruct."""


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Gaussian noise of mean 0 and standard deviation 1 whose correlation is a Gaussian of `scale` pixels."""
    noise = blur(rng.standard_normal(shape, np.float32), scale)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def blur(field: np.ndarray, scale: float) -> np.ndarray:
    """Convolution with a periodic Gaussian of standard deviation `scale` pixels."""
    rows = np.exp(-2 * (np.pi * scale * np.fft.fftfreq(field.shape[0])) ** 2)
    columns = np.exp(-2 * (np.pi * scale * np.fft.rfftfreq(field.shape[1])) ** 2)
    transfer = (rows[:, None] * columns).astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(field) * transfer, field.shape).astype(np.float32)


def acquire(
    patient: Patient, anatomy: Anatomy, hu: np.ndarray, motion: bool, rng: np.random.Generator
) -> np.ndarray:
    """What the scanner makes of the object: motion, the kernel's blur, noise.

    Args:
        patient: whose scanner it is.
        anatomy: where the pixels lie.
        hu: (size, size) float32, the object.
        motion: whether something moved during the scan.
        rng: of motion and noise.

    Returns:
        (size, size) float32 HU.
    """
    pixel = anatomy.pixel
    if motion:
        hu = _ghost(anatomy, hu, rng)
    hu = blur(hu, patient.sharpness / pixel)
    # Filtered back-projection gives noise without its lowest frequencies, more of it in the body's middle.
    white = rng.standard_normal(hu.shape, np.float32)
    noise = blur(white, 0.55) - blur(white, 2.5)
    noise /= noise.std()
    centre = np.exp(-(anatomy.x**2 + anatomy.y**2) / (2 * 110.0**2))
    amplitude = patient.noise * np.sqrt(min(1.0, 1.5 / pixel)) * (0.45 + 0.7 * centre)
    hu = hu + amplitude * noise
    if patient.circular:
        axis = np.linspace(-1, 1, hu.shape[0])
        hu[np.hypot(axis[:, None], axis) > 1.02] = OUTSIDE
    return hu.astype(np.float32)


def _ghost(anatomy: Anatomy, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breathing or heart beat during the scan: parts of the slice appear twice, a few millimetres apart."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(5, 10)
    step = distance / anatomy.pixel * np.array([np.sin(angle), np.cos(angle)])
    moved = np.roll(hu, tuple(np.rint(step).astype(int)), (0, 1))
    between = np.roll(hu, tuple(np.rint(step / 2).astype(int)), (0, 1))
    where = np.clip(0.75 + 0.35 * smooth_noise(rng, hu.shape, 35 / anatomy.pixel), 0.2, 1.0)
    where = where * np.clip((1.25 - anatomy.periphery) / 0.2, 0, 1)
    return hu + where * (0.42 * (moved - hu) + 0.18 * (between - hu))


def display_window(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """Grey levels 0 to 255 of a window's level and width, HU (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT)."""
    return np.rint(np.clip((hu - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)
