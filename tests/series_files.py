"""Files of series for the tests of the diagnosis page: DICOM of somebody with a name or of many frames, NIfTI."""

import io

import numpy as np

NAME = "MUELLER^ANNA"
IDENTIFYING = {
    "PatientName": NAME,
    "PatientID": "PAT-4711",
    "PatientBirthDate": "19600131",
    "StudyDate": "20260102",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "Klinik Musterstadt",
    "ReferringPhysicianName": "HOUSE^GREGORY",
    "StudyDescription": "MUELLER thorax",
    "SeriesDescription": "Anna Mueller LUNG",
}
"""What a header may say of a patient."""

SAYINGS = ("MUELLER", "ANNA", "Mueller", "PAT-4711", "19600131", "20260102", "ACC-0815", "Musterstadt", "GREGORY")
"""What of it must be said nowhere."""


def changed(content: bytes, **values) -> bytes:
    """A DICOM file with other values."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(content))
    for name, value in values.items():
        setattr(dataset, name, value)
    written = io.BytesIO()
    dataset.save_as(written)
    return written.getvalue()


def multi_frame(dicom: dict[str, bytes], times: int = 1) -> bytes:
    """The files of a series as one Enhanced CT file, each slice so many times."""
    import pydicom

    datasets = sorted(
        (pydicom.dcmread(io.BytesIO(content)) for content in [*dicom.values()] * times),
        key=lambda dataset: dataset.ImagePositionPatient[2],
    )
    made = datasets[0]
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    made.NumberOfFrames = len(datasets)
    made.PixelData = b"".join(dataset.PixelData for dataset in datasets)

    def item(**values):
        found = pydicom.Dataset()
        for name, value in values.items():
            setattr(found, name, value)
        return found

    frame_type = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.ImageType = frame_type
    made.SharedFunctionalGroupsSequence = [
        item(
            CTImageFrameTypeSequence=[item(FrameType=frame_type)],
            PixelMeasuresSequence=[item(PixelSpacing=made.PixelSpacing, SliceThickness=made.SliceThickness)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=made.ImageOrientationPatient)],
            PixelValueTransformationSequence=[
                item(RescaleSlope=1, RescaleIntercept=made.RescaleIntercept, RescaleType="HU")
            ],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=dataset.ImagePositionPatient)])
        for dataset in datasets
    ]
    written = io.BytesIO()
    made.save_as(written)
    return written.getvalue()


def nifti(volume: tuple[np.ndarray, tuple[float, float, float]]) -> bytes:
    """A volume, HU and spacing (z, y, x) in mm, as NIfTI."""
    import nibabel

    hu, (z, y, x) = volume
    image = nibabel.Nifti1Image(np.rint(hu.transpose(2, 1, 0)).astype(np.int16), np.diag([-x, -y, z, 1.0]))
    image.header.set_xyzt_units("mm")
    return image.to_bytes()
