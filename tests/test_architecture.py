"""A file imports only from lower layers, and what needs no TensorFlow imports none."""

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "ladnn_tf"

LAYERS = {
    "labels": 0,
    "command": 0,
    "files": 0,
    "drawing": 1,
    "card": 1,
    "answer": 2,
    "tflite_file": 2,
    "edge_dicom": 2,
    "edge_files": 3,
    "edge_predictor": 3,
    "edge_overlay": 4,
    "edge_output": 5,
    "edge_watch": 4,
    "edge": 11,
    "series_answer": 3,
    "series_cautions": 4,
    "series": 4,
    "series_text": 5,
    "series_panel": 6,
    "series_command": 10,
    "run_predictor": 9,
    "data.quality": 1,
    "data.shown": 2,
    "data.preprocess": 0,
    "metrics": 0,
    "calibration": 2,
    "intervals": 0,
    "person": 2,
    "metrics_classes": 0,
    "report_metrics": 1,
    "person_report": 3,
    "person_comparison": 4,
    "person_tables_text": 5,
    "person_tables": 10,
    "published_drenet": 0,
    "report": 4,
    "report_text": 1,
    "data.sources": 1,
    "data.published_table": 1,
    "data.manifest_rows": 1,
    "data.covid_ct": 2,
    "data.ladnn_d1": 2,
    "data.splits": 2,
    "data.duplicates": 2,
    "data.phantom_plan": 0,
    "data.phantom_painter": 0,
    "data.phantom_vessels": 1,
    "data.phantom_anatomy": 2,
    "data.phantom_scanner": 3,
    "data.phantom_slice": 4,
    "data.phantom_report": 5,
    "data.phantom_sheet": 5,
    "data.phantom_bacterial": 5,
    "data.phantom_files": 5,
    "data.phantom_volume": 6,
    "data.phantom": 6,
    "data.phantom_cohort_plan": 1,
    "data.phantom_cohort": 8,
    "data.manifest_report": 3,
    "data.report_rules": 0,
    "data.report_sentences": 1,
    "data.reports": 5,
    "data.reports_measured": 3,
    "data.reports_table": 4,
    "data.manifest_reports": 6,
    "data.manifest": 7,
    "data.pipeline": 2,
    "data.lung_images": 5,
    "models.resnet18": 0,
    "models.backbones": 1,
    "models.normalisation": 0,
    "models.weights_download": 1,
    "models.weights_files": 0,
    "models.weights_hdf5": 1,
    "models.weights_npz": 1,
    "models.weights_transfer": 1,
    "models.weights": 2,
    "models.ladnn": 3,
    "models.regions": 0,
    "models.drenet": 4,
    "models.attention": 0,
    "losses": 1,
    "config": 2,
    "devices": 0,
    "fused_batch_norm": 0,
    "checkpoint": 1,
    "runs": 8,
    "validation": 9,
    "fit": 10,
    "origin": 10,
    "train": 11,
    "evaluate": 9,
    "predict": 11,
    "data.lung_hulls": 2,
    "data.volume": 0,
    "data.dicom_writer": 1,
    "data.series_sources": 1,
    "data.dicom_elements": 1,
    "data.dicom_codecs": 2,
    "data.dicom_header": 3,
    "data.dicom_kinds": 4,
    "data.dicom_frames": 5,
    "data.dicom_geometry": 6,
    "data.dicom_pixels": 6,
    "data.dicom_stacks": 7,
    "data.dicom_series": 8,
    "data.dicomdir": 4,
    "data.nifti": 2,
    "data.picture_series": 2,
    "data.volumes": 9,
    "data.lung_regions": 0,
    "data.lungs": 1,
    "data.lungs_sheet": 8,
    "data.alterations": 3,
    "shortcuts": 2,
    "audit_text": 4,
    "audit_sheet": 2,
    "audit_views": 8,
    "audit_sources": 9,
    "audit": 10,
    "delong": 0,
    "published_table2": 0,
    "same_images": 1,
    "table2": 2,
    "table2_text": 3,
    "grid": 9,
    "grid_cost": 10,
    "grid_text": 11,
    "experiments": 12,
    "localisation": 1,
    "curves": 1,
    "figures_manifest": 2,
    "figures_runs": 9,
    "figures_training": 9,
    "figures_curves": 10,
    "figures_lesions": 10,
    "figures": 11,
    "box_measures": 2,
    "box_hits_sheet": 1,
    "box_hits": 9,
    "explain_panel": 5,
    "lesion_thresholds": 9,
    "explain": 10,
}

WITHOUT_TENSORFLOW = [
    "labels", "card", "command", "config", "metrics", "calibration", "intervals", "report",
    "data.preprocess", "data.manifest", "data.phantom", "data.reports", "edge",
]  # fmt: skip


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Names of modules of the package that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ladnn_tf"):
            base = node.module.removeprefix("ladnn_tf").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                yield full if full in LAYERS else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("ladnn_tf.") for a in node.names if a.name.startswith("ladnn_tf."))


def test_every_module_has_a_layer():
    names = {name for name, _ in modules() if not name.endswith("__init__")}
    assert names == set(LAYERS)


def test_files_import_from_lower_layers_only():
    wrong = [
        f"{name} (layer {LAYERS[name]}) imports {other} (layer {LAYERS[other]})"
        for name, tree in modules()
        if not name.endswith("__init__")
        for other in imported(tree)
        if LAYERS[other] >= LAYERS[name]
    ]
    assert not wrong


def test_init_files_hold_a_docstring_and_nothing_else():
    for name, tree in modules():
        if name.endswith("__init__"):
            assert len(tree.body) == 1, name
            assert ast.get_docstring(tree), name


def test_models_and_losses_use_no_tensorflow():
    """They then also train on Keras' other backends."""
    for name, tree in modules():
        if name.startswith("models.") or name == "losses":
            roots = {
                alias.name.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import)
                for alias in node.names
            } | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert "keras" in roots or "ladnn_tf" in roots or name.endswith("__init__"), name
            assert "tensorflow" not in roots, name


@pytest.mark.parametrize("extra", ["tensorflow", "keras"])
def test_light_modules_import_neither_tensorflow_nor_keras(extra):
    imports = "; ".join(f"import ladnn_tf.{name}" for name in WITHOUT_TENSORFLOW)
    code = f"import sys; {imports}; sys.exit({extra!r} in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_light_base_is_numpy_and_pillow():
    code = (
        "import sys; import ladnn_tf.labels, ladnn_tf.card, ladnn_tf.data.preprocess, ladnn_tf.edge; "
        "sys.exit(any(name in sys.modules for name in ('absl', 'pandas', 'scipy', 'tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
