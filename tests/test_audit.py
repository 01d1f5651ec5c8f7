"""The shortcut audit on the phantoms: the command, its source runs and what it must not lose."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_audit_text import origin, result

from ladnn_tf import audit, audit_sources, audit_views, runs
from ladnn_tf.card import write_card
from ladnn_tf.data import preprocess
from ladnn_tf.data.alterations import ALTERATIONS, common_resolution
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.data.pipeline import load_images
from ladnn_tf.files import file_sha256


def test_origins_by_hand():
    rows = [  # source, split, covid
        ("covid_ct/a", "test", 1),
        ("covid_ct/b", "train", 1),
        ("covid_ct/hku", "test", 1),  # an archive that is not trained on
        ("", "test", 1),
        ("", "train", 1),
        ("covid_ct/medpix", "test", 0),
        ("ladnn_d1/medpix", "train", 0),  # the same archive in the other dataset
        ("covid_ct/medpix", "validation", 0),
        ("covid_ct/crawled", "test", 0),
        ("covid_ct/crawled", "train", 1),  # of the other class
    ]
    manifest = pd.DataFrame(rows, columns=["source", "split", "covid"])
    assert audit_sources.origins(manifest, "test") == [
        origin(1, papers=1, other=1, without=1),
        origin(0, trained=2, archives=("crawled", "medpix")),
    ]


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def audit_main(*arguments):
    return audit.main(["audit", "--resamples=100", "--split=validation", *map(str, arguments)])


@pytest.fixture(scope="module")
def papers_manifest(phantom_manifest):
    """The phantoms, each positive patient as a paper of its own; the negatives stay in one archive."""
    path = phantom_manifest.parent / "papers.csv"
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame["source"] = frame["source"].where(frame["covid"] == "0", "covid_ct/paper of " + frame["patient"])
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def grouped_run(tiny_run, papers_manifest, tmp_path_factory):
    """The tiny run with other weights and another manifest, as if it had been trained on it."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("grouped") / "run")
    run = runs.load_run(folder)
    weight = run.model.trainable_variables[0]
    weight.assign(weight + 0.01)
    run.model.save(folder / "model.keras")
    (folder / "config.flags").write_text(dataclasses.replace(run.config, manifest=str(papers_manifest)).to_flags())
    manifest = {"file": papers_manifest.name, "sha256": file_sha256(papers_manifest)}
    sha256 = file_sha256(folder / "model.keras")
    card = dataclasses.replace(run.card, name="grouped", manifest=manifest, model_sha256=sha256)
    write_card(card, folder / "card.json")
    (folder / "metrics.json").unlink(missing_ok=True)
    return folder


def test_it_writes_the_report_and_counts_the_look(run_copy, grouped_run, tmp_path, capsys):
    grouped = shutil.copytree(grouped_run, tmp_path / "grouped")
    assert audit_main(f"--run={run_copy}", f"--source_run={grouped}") == 0
    printed = capsys.readouterr().out
    out = run_copy / "audit_validation"
    assert sorted(path.name for path in out.iterdir()) == sorted(audit.FILES)
    assert (out / "audit.md").read_text() in printed
    found = json.loads((out / "audit.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["tiny"]
    source_run = found["source_runs"][0]
    for folder, row in ((run_copy, found["runs"][0]), (grouped, source_run)):
        assert runs.read_metrics(folder, row["model_sha256"])["looks"] == {"validation": 1}
    with Image.open(out / "audit.png") as image:
        assert image.width > image.height

    run = runs.load_run(run_copy)
    manifest = read_manifest(run.config.manifest)
    frame = select_split(manifest, "validation")
    stored = runs.read_predictions(run_copy, "validation")
    first = found["runs"][0]
    expected = roc_auc_score(stored["covid"], stored["covid_probability"])
    assert first["unchanged"]["auc"]["value"] == pytest.approx(expected, abs=1e-9)
    model = runs.logits_model(run.model)
    views = audit_views.altered_views(frame, 32)
    aucs = {
        name: roc_auc_score(frame["covid"], runs.predict_logits(model, images)["covid"][:, 0])
        for name, (images, _) in views.items()
    }
    assert len(set(aucs.values())) > 2
    assert list(first["alterations"]) == list(ALTERATIONS)
    for name, row in first["alterations"].items():
        assert row["auc"]["value"] == pytest.approx(aucs[name], abs=1e-9), name
    assert first["alterations"]["corners erased"]["images"] == len(frame)
    positives = int(frame["covid"].sum())
    assert source_run["origins"] == [
        origin(1, papers=positives),
        origin(0, trained=len(frame) - positives, archives=("phantom",)),
    ]
    assert found["form_of_files"]["training_images"] == len(select_split(manifest, "train"))
    assert "(32 pixels) is not larger" in printed


def test_runs_of_other_settings_or_data_are_not_averaged(tiny_run, grouped_run):
    def fingerprint(run, **changes):
        return audit._settings_sha256(dataclasses.replace(run, config=dataclasses.replace(run.config, **changes)))

    run, grouped = runs.load_run(tiny_run), runs.load_run(grouped_run)
    assert fingerprint(run, seed=77, manifest="the same file/elsewhere.csv") == fingerprint(run)
    for change in ({"image_size": 64}, {"epochs": 9}, {"flip": False}, {"weights": "other"}):
        assert fingerprint(run, **change) != fingerprint(run)
    assert fingerprint(grouped) != fingerprint(run)


@pytest.mark.parametrize("broken", ["metrics", "source metrics", "training image", "out", "same model"])
def test_nothing_is_looked_at_or_lost_where_something_fails_first(
    broken, tiny_run, grouped_run, tmp_path, monkeypatch
):
    run_copy = shutil.copytree(tiny_run, tmp_path / "run")
    grouped = shutil.copytree(grouped_run, tmp_path / "grouped")
    before = (run_copy / "metrics.json").read_bytes()
    arguments, message = [f"--run={run_copy}", f"--source_run={grouped}"], "figures of another model"
    if broken == "metrics":
        before = b'{"model_sha256": "other", "looks": {}}'
        (run_copy / "metrics.json").write_bytes(before)
    elif broken == "source metrics":
        (grouped / "metrics.json").write_text('{"model_sha256": "other", "looks": {}}')
    elif broken == "training image":
        frame = pd.read_csv(runs.load_run(run_copy).config.manifest, dtype=str, keep_default_na=False)
        folder = Path(runs.load_run(run_copy).config.manifest).parent
        frame["image"] = [str(folder / image) for image in frame["image"]]
        (tmp_path / "bad.png").write_text("nothing")
        frame.loc[frame.index[frame["split"] == "train"][0], "image"] = str(tmp_path / "bad.png")
        frame.to_csv(tmp_path / "other.csv", index=False)
        arguments += [f"--manifest={tmp_path / 'other.csv'}", f"--out={tmp_path / 'out'}"]
        message = r"1 of \d+ images of .* cannot be read"
    elif broken == "out":
        (tmp_path / "file").write_text("")
        arguments, message = [*arguments, f"--out={tmp_path / 'file' / 'out'}"], "file"
    else:
        arguments, message = [f"--run={run_copy}", f"--source_run={tiny_run}"], "the same model is given twice"

    def asked(*_):
        raise AssertionError("a model was asked")

    monkeypatch.setattr(runs, "predict_logits", asked)
    with pytest.raises((ValueError, OSError), match=message):
        audit_main(*arguments)
    assert (run_copy / "metrics.json").read_bytes() == before
    assert broken == "source metrics" or not (grouped / "metrics.json").exists()


@pytest.mark.parametrize("flag", ["run", "source_run"])
def test_a_run_of_lungs_is_refused_before_any_work(flag, tiny_run, run_copy, tmp_path, monkeypatch):
    settings, card = run_copy / "config.flags", json.loads((run_copy / "card.json").read_text())
    settings.write_text(settings.read_text().replace("--lungs=whole", "--lungs=extracted"))
    (run_copy / "card.json").write_text(json.dumps({**card, "lungs": "extracted"}))
    monkeypatch.setattr(audit, "read_manifest", lambda *_: pytest.fail("the data were read"))
    given = {"run": tiny_run, flag: run_copy}
    arguments = [f"--{name}={folder}" for name, folder in given.items()] + [f"--out={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=r"run was trained on lungs that were cut out.*--lungs=whole$") as caught:
        audit_main(*arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="cut out"):
        audit.audit([runs.load_run(run_copy)], "validation", manifest="x.csv")


def test_no_look_is_counted_where_a_later_run_fails(run_copy, grouped_run, tmp_path, monkeypatch):
    grouped = shutil.copytree(grouped_run, tmp_path / "grouped")
    before = (run_copy / "metrics.json").read_bytes()
    sizes = []
    predict_logits = runs.predict_logits

    def fails_last(model, images):
        sizes.append(len(images))
        if len(sizes) == 6:  # unchanged and four alterations of the first, then the source run
            raise ValueError("no memory")
        return predict_logits(model, images)

    monkeypatch.setattr(runs, "predict_logits", fails_last)
    with pytest.raises(ValueError, match="no memory"):
        audit_main(f"--run={run_copy}", f"--source_run={grouped}")
    assert (run_copy / "metrics.json").read_bytes() == before


def test_the_report_is_printed_even_if_it_cannot_be_written(run_copy, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    found = result((0.78, 0.7, 0.85))
    monkeypatch.setattr(audit, "audit", lambda *_, **__: (found, {}))
    monkeypatch.setattr(audit, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        audit_main(f"--run={run_copy}")
    assert "# Shortcut audit" in capsys.readouterr().out


def test_the_views_are_the_altered_images(phantom_manifest):
    frame = select_split(read_manifest(phantom_manifest), "validation").head(4)
    views = audit_views.altered_views(frame, 128)
    assert (views["unchanged"][0] == load_images(frame, 128)).all()
    assert all(possible.all() for _, possible in views.values())
    for name, function in ALTERATIONS.items():
        assert (views[name][0] == np.stack([function(image) for image in views["unchanged"][0]])).all()
    originals = [preprocess.decode(Path(path).read_bytes()) for path in frame["path"]]
    expected = np.stack([common_resolution(original, 128) for original in originals])
    assert (views["common resolution"][0] == expected).all()
    assert "common resolution" in audit_views.altered_views(frame.head(1), 97)
    assert "common resolution" not in audit_views.altered_views(frame.head(1), 96)


def test_it_refuses_what_would_mix_or_overwrite(run_copy, tiny_baseline_run, tmp_path):
    with pytest.raises(ValueError, match="is a run; give a folder"):
        audit_main(f"--run={run_copy}", f"--out={tiny_baseline_run}")
    with pytest.raises(ValueError, match="the same model is given twice"):
        audit_main(f"--run={run_copy}", f"--run={run_copy}")
    with pytest.raises(ValueError, match=r"no config\.flags"):
        audit_main(f"--run={tmp_path}")
    out = tmp_path / "audit"
    out.mkdir()
    (out / "audit.json").write_text("[]")
    with pytest.raises(ValueError, match="no audit of this version"):
        audit_main(f"--run={run_copy}", f"--out={out}")
    assert [path.name for path in out.iterdir()] == ["audit.json"]


@pytest.mark.parametrize("other", ["split", "data", "runs", "source runs", None])
def test_an_audit_of_other_things_is_not_overwritten(other, tiny_run, grouped_run, tmp_path):
    run, grouped = runs.load_run(tiny_run), runs.load_run(grouped_run)
    old = {
        "split": "validation",
        "manifest": {"sha256": "m"},
        "runs": [{"model_sha256": run.card.model_sha256}],
        "source_runs": [{"model_sha256": grouped.card.model_sha256}],
    }
    (tmp_path / "audit.json").write_text(json.dumps(old))
    given = {"split": "validation", "data": "m", "runs": [run], "source runs": [grouped]}
    if other is None:
        audit.check_out(tmp_path, [run], "validation", "m", [grouped])
        return
    given |= {other: {"split": "test", "data": "n", "runs": [run, grouped], "source runs": []}[other]}
    with pytest.raises(ValueError, match=rf"audit of other things \({other}\), .*give another --out"):
        audit.check_out(tmp_path, given["runs"], given["split"], given["data"], given["source runs"])
    assert json.loads((tmp_path / "audit.json").read_text()) == old


def test_other_data_needs_a_folder_of_its_own_and_counts_no_look(run_copy, phantom_manifest, tmp_path):
    """Validation alone, with a black image as its first positive, which cannot be altered."""
    frame = pd.read_csv(phantom_manifest, dtype=str, keep_default_na=False)
    frame = frame[frame["split"] == "validation"].reset_index(drop=True)
    frame["image"] = [str(phantom_manifest.parent / image) for image in frame["image"]]
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    black = frame.index[frame["covid"] == "1"][0]
    frame.loc[black, "image"] = str(tmp_path / "black.png")
    other = tmp_path / "audited.csv"
    frame.to_csv(other, index=False)
    arguments = [f"--run={run_copy}", f"--manifest={other}"]
    with pytest.raises(ValueError, match=r"not the data .*give --out=FOLDER"):
        audit_main(*arguments)
    assert audit_main(*arguments, f"--out={tmp_path / 'elsewhere'}") == 0
    found = json.loads((tmp_path / "elsewhere" / "audit.json").read_text())
    assert "no training images" in found["form_of_files"]["not_done"]
    assert found["manifest"]["file"] == "audited.csv"
    assert json.loads((run_copy / "metrics.json").read_text())["looks"] == {}

    rows = read_manifest(other)
    kept = np.arange(len(rows)) != black
    altered = np.stack([ALTERATIONS["lungs erased"](image) for image in load_images(rows[kept], 32)])
    logits = runs.predict_logits(runs.logits_model(runs.load_run(run_copy).model), altered)["covid"][:, 0]
    erased = found["runs"][0]["alterations"]["lungs erased"]
    assert (erased["images"], erased["left_out"]) == (len(rows) - 1, 1)
    assert erased["auc"]["value"] == pytest.approx(roc_auc_score(rows["covid"][kept], logits), abs=1e-9)
    assert found["runs"][0]["alterations"]["corners erased"]["left_out"] == 0


def test_one_class_alone_has_no_auc(run_copy, phantom_manifest, tmp_path):
    lines = phantom_manifest.read_text().splitlines(keepends=True)
    other = phantom_manifest.parent / "positives.csv"
    other.write_text("".join([lines[0], *(line for line in lines if "CT_COVID" in line)]))
    with pytest.raises(ValueError, match="an AUC needs both classes"):
        audit_main(f"--run={run_copy}", f"--manifest={other}", f"--out={tmp_path / 'out'}")


def test_a_source_run_must_not_share_papers_between_its_splits(run_copy, phantom_manifest, tmp_path):
    """The phantoms count as an archive; renamed to one paper they are in every split."""
    shared = phantom_manifest.parent / "shared_paper.csv"
    shared.write_text(phantom_manifest.read_text().replace("covid_ct/phantom,", "covid_ct/paper,"))
    run = runs.load_run(run_copy)
    card = dataclasses.replace(
        run.card, manifest={"file": "x", "sha256": runs.read_manifest(shared).attrs["sha256"]}
    )
    source_run = dataclasses.replace(run, config=dataclasses.replace(run.config, manifest=str(shared)), card=card)
    with pytest.raises(ValueError, match=r"1 source papers .* such as paper, are in several splits"):
        audit_sources.source_grouped(source_run, "validation")
    with pytest.raises(ValueError, match=r"not the data that .* was trained on"):
        audit_sources.source_grouped(dataclasses.replace(source_run, card=run.card), "validation")


def test_a_source_run_needs_papers_and_a_split_it_was_not_trained_on(tiny_run, grouped_run, phantom_manifest):
    """The phantoms are of one archive; with no source at all there is no paper either."""
    run = runs.load_run(tiny_run)
    with pytest.raises(ValueError, match=r"none of the \d+ images of split 'validation' .* comes from a paper"):
        audit_sources.source_grouped(run, "validation")
    nameless = phantom_manifest.parent / "nameless.csv"
    nameless.write_text(phantom_manifest.read_text().replace("covid_ct/phantom,", ","))
    card = dataclasses.replace(run.card, manifest={"file": "x", "sha256": file_sha256(nameless)})
    config = dataclasses.replace(run.config, manifest=str(nameless))
    with pytest.raises(ValueError, match="comes from a paper"):
        audit_sources.source_grouped(dataclasses.replace(run, config=config, card=card), "validation")
    with pytest.raises(ValueError, match="--split=train is what it was trained on"):
        audit_sources.source_grouped(runs.load_run(grouped_run), "train")
