"""Packaging of ladnn_tf. The base needs NumPy and Pillow only; everything else is an extra."""

from setuptools import find_packages, setup

TENSORFLOW = "tensorflow{}>=2.21,<2.22"
TRAIN = [
    "absl-py>=2.1",
    "efficientnet>=1.1.1",
    "h5py>=3.11",
    "keras>=3.15,<4",
    "matplotlib>=3.9",
    "pandas>=2.2",
    "scikit-image>=0.24",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorboard>=2.20",
]
# Decoders of permissive licences only: pylibjpeg-libjpeg is GPL. pyjpegls encodes; python-gdcm decodes.
# scikit-image and scipy find the lungs.
DICOM = [
    "nibabel>=5.3",
    "pydicom>=3.0",
    "pyjpegls>=1.4",
    "pylibjpeg-openjpeg>=2.3",
    "pylibjpeg-rle>=2.0",
    "python-gdcm>=3.0.24",
    "scikit-image>=0.24",
    "scipy>=1.13",
]
EDGE = ["ai-edge-litert>=2.1"]
EXPORT = [*EDGE, "ai-edge-quantizer>=0.10", "packaging>=24", "setuptools>=77", "tensorflow-serving-api>=2.19"]
SERVING = [
    *EDGE,
    "absl-py>=2.1",
    "fastapi>=0.115",
    "httpx>=0.28",
    "jinja2>=3.1",
    "prometheus-client>=0.21",
    "python-multipart>=0.0.28",
    "sqlalchemy>=2.0",
    "uvicorn>=0.34",
]

setup(
    name="ladnn_tf",
    version="0.1.0",
    description="LA-DNN (Liu et al. 2020): COVID-19 and five lesions from a chest-CT slice, in Keras 3",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["ladnn_tf", "ladnn_tf.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=["numpy>=1.26", "Pillow>=12"],
    extras_require={
        "train": [TENSORFLOW.format(""), *TRAIN],
        "gpu": [TENSORFLOW.format("[and-cuda]"), *TRAIN],
        "edge": EDGE,
        "export": EXPORT,
        "dicom": DICOM,
        "serving": SERVING,
        "grpc": ["grpcio>=1.66", "tensorflow-serving-api>=2.19"],
        "hub": ["keras-hub>=0.25", TENSORFLOW.format("")],
        "benchmark": [
            "monai>=1.5",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.5",
            "tf-keras-vis>=0.8.7",
            "torch==2.13.0",
        ],
        "dev": [
            *DICOM,
            *EXPORT,
            *SERVING,
            "grpcio>=1.66",
            "keras-hub>=0.25",
            "playwright>=1.49",
            "pytest>=8",
            "pytest-cov>=6",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "ruff>=0.9",
            "tf-keras-vis>=0.8.7",
        ],
    },
)
