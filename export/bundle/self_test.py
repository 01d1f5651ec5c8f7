"""Answers the pictures of this bundle on this machine, and compares with what was answered where it was made.

    venv/bin/python -I self_test.py

Two pictures are drawn slices (phantoms), one with the signs of COVID-19 and one without; one is noise, which must
get no answer. Whether the answers are right is not asked, only whether this machine gives the same ones. The
integer arithmetic of int8 models may round otherwise on another processor, hence the tolerance in expected.json.

Exit status: 0, all as expected; 1, not so.
"""

import contextlib
import io
import json
import math
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def answers(model, pictures, out):
    """Answers pictures by the installed command.

    Args:
        model: the `.tflite`.
        pictures: the files.
        out: a folder for the command's files.

    Returns:
        Name of a picture -> its record, the maps in it.

    Raises:
        RuntimeError: if the command fails.
    """
    from ladnn_tf import edge

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        status = edge.run(["edge", str(model), *map(str, pictures), f"--out={out}", "--maps", "--format=jsonl"])
    records = [json.loads(path.read_bytes()) for path in Path(out).glob("*.json")]
    if status and not records:
        raise RuntimeError(errors.getvalue().strip() or f"the command ended with {status}")
    return {Path(record["file"]).name: record for record in records}


def problems(record, expected, tolerance, out):
    """What is wrong with the answer to one picture.

    Args:
        record: of the command; None if there is none.
        expected: `{"abstained": true}`, or `covid`, `lesions` and the maps' `maps_shape`; a model with classes has
            `classes`, and an empty `maps_shape`.
        tolerance: how far a probability may be off.
        out: the folder with the overlay.

    Returns:
        Sentences; none if all is as expected.
    """
    if record is None:
        return ["there is no answer"]
    if record["error"]:
        return [record["error"]]
    if record["abstained"] != expected["abstained"]:
        return [f"it was refused: {record['reason']}" if record["abstained"] else "it should have been refused"]
    if expected["abstained"]:
        return []
    found = []
    wanted = {"covid": expected["covid"], **expected["lesions"], **expected.get("classes", {})}
    given = {"covid": record["covid"], **record["lesions"], **record.get("classes", {})}
    if given.keys() != wanted.keys():
        return [f"answers for {', '.join(given)} instead of {', '.join(wanted)}"]
    for name, value in given.items():
        if not abs(value - wanted[name]) <= tolerance:
            found.append(f"{name} is {value:.4f} instead of {wanted[name]:.4f}")
    if record["positive"] != (record["covid"] >= record["threshold"]):
        found.append("the call does not follow from the threshold")
    shape = _shape(record.get("maps"))
    if shape != expected["maps_shape"]:
        found.append(f"the maps are {shape} instead of {expected['maps_shape']}")
    elif not all(math.isfinite(x) for row in record.get("maps", ()) for place in row for x in place):
        found.append("the maps hold what is no number")
    overlay = record["overlay"]
    if not overlay or not (Path(out) / overlay).is_file() or not (Path(out) / overlay).stat().st_size:
        found.append("no overlay was drawn")
    return found


def _shape(values):
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0] if values else None
    return shape


def main(folder=HERE, answer=answers):
    """Runs the self-test and returns the exit status.

    Args:
        folder: holds `model` and `self_test`.
        answer: as `answers`.
    """
    folder = Path(folder)
    expected = json.loads((folder / "self_test" / "expected.json").read_text(encoding="utf-8"))
    failed = False
    with tempfile.TemporaryDirectory() as out:
        try:
            pictures = [folder / "self_test" / name for name in expected["pictures"]]
            records = answer(folder / "model" / "ladnn.tflite", pictures, out)
        except Exception as error:  # noqa: BLE001  whatever it is, this machine cannot answer
            print(f"self-test failed: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        for name, wanted in expected["pictures"].items():
            record = records.get(name)
            wrong = problems(record, wanted, expected["tolerance"], out)
            if wrong:
                verdict = "WRONG: " + "; ".join(wrong)
            elif wanted["abstained"]:
                verdict = f"ok, refused: {record['reason']}"
            else:
                verdict = f"ok, COVID-19 {record['covid']:.4f} (there {wanted['covid']:.4f})"
            print(f"{name:<20}{verdict}")
            failed |= bool(wrong)
    if failed:
        print(f"self-test failed: the answers may differ by {expected['tolerance']} at most", file=sys.stderr)
        return 1
    print(f"self-test passed: {expected['version']} answers here as where the bundle was made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
