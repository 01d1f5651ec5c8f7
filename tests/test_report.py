import json

import numpy as np
import pandas as pd
import pytest

from ladnn_tf import report, report_text
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.labels import LESIONS

TEMPERATURE = 1.5


def predictions(n=60, seed=0, lesions=True):
    """A table of 60 images of 30 patients: half COVID-19, of two papers and one small one."""
    generator = np.random.default_rng(seed)
    covid = (np.arange(n) % 4 < 2).astype(int)
    table = pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(n)],
            "patient": [f"patient {row // 2}" for row in range(n)],
            "source": np.where(covid, "covid_ct/20040782", "covid_ct/medpix/17"),
            "diagnosis": np.where(covid, "covid19", ""),
            "sex": np.where(np.arange(n) % 3 == 0, "F", "M"),
            "age": np.arange(n) + 20.0,
            "covid": covid,
            "covid_logit": 2 * covid - 1 + 1.5 * generator.normal(size=n),
        }
    )
    table.loc[table.index[:2], "source"] = "covid_ct/20030001"
    table.loc[table.index[:6], "sex"] = ["", np.nan] * 3
    table.loc[table.index[:4], "age"] = np.nan
    table["covid_probability"] = calibrated_probabilities(table["covid_logit"], TEMPERATURE)
    for number, lesion in enumerate(LESIONS):
        table[lesion] = np.where(covid, generator.integers(0, 2, n).astype(float), np.nan)
        if lesions:
            table[f"{lesion}_logit"] = generator.normal(size=n) + number
            table[f"{lesion}_probability"] = calibrated_probabilities(table[f"{lesion}_logit"], 1)
    table["InSepThi"] = np.where(covid, 0.0, np.nan)
    return table


def evaluate(table, **changes):
    options = {"threshold": 0.4, "temperature": TEMPERATURE, "threshold_rule": "by hand", "resamples": 200}
    return report.evaluate_predictions(table, **options | changes)


def paper_predictions():
    """The confusion matrix of DenseNet-169 on D0, one image per patient: TP 84, FN 14, TN 89, FP 16."""
    table = pd.DataFrame({"covid": [1] * 98 + [0] * 105})
    table["image"] = [f"{row}.png" for row in range(203)]
    table["patient"] = table["image"]
    table["covid_logit"] = [3.0] * 84 + [-3.0] * 14 + [-3.0] * 89 + [3.0] * 16
    table["covid_probability"] = calibrated_probabilities(table["covid_logit"], TEMPERATURE)
    return table.assign(source=np.nan, sex=np.nan, age=np.nan, **dict.fromkeys(LESIONS, np.nan))


def test_the_papers_confusion_matrix_gives_its_table_2():
    result = evaluate(paper_predictions(), prevalence=0.05)
    point = result["covid"]["at_0.5"]
    assert (result["images"], result["patients"], result["positives"]) == (203, 203, 98)
    assert point["confusion"] == {"tp": 84, "fn": 14, "tn": 89, "fp": 16}
    assert round(100 * point["sensitivity"]["value"], 1) == 85.7
    assert round(100 * point["f1"]["value"], 1) == 84.8
    assert round(100 * point["accuracy"]["value"], 1) == 85.2
    # Single images of as many patients: the interval is close to the normal one of a share.
    half = 1.96 * np.sqrt(84 * 14 / 98**3)
    assert point["sensitivity"]["low"] == pytest.approx(84 / 98 - half, abs=0.02)
    assert point["sensitivity"]["high"] == pytest.approx(84 / 98 + half, abs=0.02)
    ppv = 0.05 * 84 / 98 / (0.05 * 84 / 98 + 0.95 * 16 / 105)
    assert point["ppv_at_prevalence"]["value"] == pytest.approx(ppv)
    npv = 0.95 * 89 / 105 / (0.95 * 89 / 105 + 0.05 * 14 / 98)
    assert point["npv_at_prevalence"]["value"] == pytest.approx(npv)
    assert point["ppv_at_prevalence"]["low"] < ppv < point["ppv_at_prevalence"]["high"]
    assert result["lesions"] == {}
    for groups in result["subgroups"].values():
        assert groups == {"unknown": 203, "groups": {}}


def test_report_of_the_papers_confusion_matrix_reads_as_expected():
    lines = report_text.format_report(evaluate(paper_predictions(), prevalence=0.05)).splitlines()
    assert lines[0] == "COVID-19: 203 images of 203 patients, 98 positive"
    rows = {line.split("   ")[0]: line.split("   ")[1:] for line in lines if line}
    assert rows["sensitivity"][-2].strip().startswith("85.7 % [")
    assert any(line.startswith("PPV at prevalence 5 %") for line in lines)
    matrix = lines.index("at 0.5000   predicted COVID-19   predicted other")
    assert lines[matrix + 1].split() == ["COVID-19", "84", "14"]
    assert lines[matrix + 2].split() == ["other", "16", "89"]
    assert "COVID-19 by sex, threshold 0.4000; unknown for 203 images" in lines
    assert not any("Lesions" in line for line in lines)


def test_result_is_valid_json_and_its_text_holds_no_nan():
    result = evaluate(predictions(), prevalence=0.05)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = report_text.format_report(result)
    assert "nan" not in text.lower().split()
    assert "None" not in text
    assert max(map(len, text.splitlines())) < 140


def test_both_thresholds_and_both_calibrations_are_reported():
    table = predictions()
    covid = evaluate(table)["covid"]
    assert (covid["at_0.5"]["threshold"], covid["at_0.5"]["rule"]) == (0.5, "fixed")
    assert (covid["at_threshold"]["threshold"], covid["at_threshold"]["rule"]) == (0.4, "by hand")
    assert covid["at_threshold"]["sensitivity"]["value"] > covid["at_0.5"]["sensitivity"]["value"]
    assert "ppv_at_prevalence" not in covid["at_0.5"]
    uncalibrated = 1 / (1 + np.exp(-table["covid_logit"]))
    assert covid["brier"]["value"] == pytest.approx(((table["covid_probability"] - table["covid"]) ** 2).mean())
    assert covid["brier_uncalibrated"]["value"] == pytest.approx(((uncalibrated - table["covid"]) ** 2).mean())
    assert covid["ece"]["value"] != covid["ece_uncalibrated"]["value"]
    for name in ("auc", "average_precision", "brier"):
        assert covid[name]["low"] < covid[name]["value"] < covid[name]["high"]


def test_lesions_are_judged_over_known_labels_only():
    table = predictions()
    result = evaluate(table)["lesions"]
    assert tuple(result) == LESIONS
    known = table[table["GGO"].notna()]
    pairs = [
        (p > q) + (p == q) / 2
        for p in known.loc[known["GGO"] == 1, "GGO_probability"]
        for q in known.loc[known["GGO"] == 0, "GGO_probability"]
    ]
    assert result["GGO"]["images"] == 30
    assert result["GGO"]["positives"] == known["GGO"].sum()
    assert result["GGO"]["auc"]["value"] == pytest.approx(np.mean(pairs))
    assert result["InSepThi"]["images"] == 30
    assert result["InSepThi"]["auc"]["value"] is None
    assert result["InSepThi"]["average_precision"]["value"] is None
    row = next(
        line
        for line in report_text.format_report(evaluate(table)).splitlines()
        if line.startswith("interlobular septal thickening (InSepThi)")
    )
    assert row.split()[-2:] == ["n/a", "n/a"]


def test_a_lesion_that_nobody_labelled_is_undefined():
    result = evaluate(predictions().assign(CrPa=np.nan))["lesions"]["CrPa"]
    assert (result["images"], result["positives"], result["auc"]["value"]) == (0, 0, None)


def test_the_baseline_has_no_lesions():
    assert evaluate(predictions(lesions=False))["lesions"] == {}


def test_subgroups():
    table = predictions()
    groups = evaluate(table)["subgroups"]
    sources = groups["source"]["groups"]
    assert list(sources) == ["covid_ct/20040782", "covid_ct/medpix", "other"]
    assert [row["images"] for row in sources.values()] == [28, 30, 2]
    assert [row["positives"] for row in sources.values()] == [28, 0, 2]
    assert sources["covid_ct/medpix"]["patients"] == 15
    assert sources["covid_ct/medpix"]["auc"]["value"] is None  # a single class
    assert sources["covid_ct/medpix"]["sensitivity"]["value"] is None
    negatives = table.loc[table["covid"] == 0, "covid_probability"]
    assert negatives.between(0.4, 0.5).any()  # so that the threshold of 0.4 can be told from 0.5
    assert sources["covid_ct/medpix"]["specificity"]["value"] == pytest.approx((negatives < 0.4).mean())
    assert groups["sex"]["unknown"] == 6
    assert {name: row["images"] for name, row in groups["sex"]["groups"].items()} == {"F": 18, "M": 36}
    assert groups["age"]["unknown"] == 4  # the others are 24 to 79
    ages = {name: row["images"] for name, row in groups["age"]["groups"].items()}
    assert ages == {"0 to 39": 16, "40 to 59": 20, "60 and over": 20}
    assert groups["age"]["groups"]["0 to 39"]["auc"]["value"] is not None


def test_a_long_source_is_cut_in_the_text_only():
    title = "covid_ct/Comparison-of-different-samples-for-2019-novel-cor_2020_International-Journa"
    result = evaluate(predictions().assign(source=title))
    assert list(result["subgroups"]["source"]["groups"]) == [title]
    assert f"\n{title[:41]}...   60 " in report_text.format_report(result)


def test_a_share_of_1_gets_wilsons_interval_over_patients():
    table = paper_predictions().iloc[:84]  # all found, in pairs of one patient
    table = table.assign(patient=[f"p{row // 2}" for row in range(84)])
    found = evaluate(table)["covid"]["at_0.5"]["sensitivity"]
    # 42 of 42 patients: low = 42 / (42 + 1.96^2)
    assert found["value"] == 1
    assert (found["low"], found["high"]) == (pytest.approx(42 / (42 + 1.96**2), abs=1e-4), 1)
    assert found["method"] == "wilson"
    text = report_text.format_report(evaluate(table))
    assert "100.0 % [91.6, 100.0]*" in text
    assert "* Wilson interval" in text


def test_a_perfect_order_is_not_given_an_interval():
    table = paper_predictions().iloc[[0, 1, 98, 99]]
    lines = report_text.format_report(evaluate(table)).splitlines()
    assert next(line for line in lines if line.startswith("AUC")).split() == ["AUC", "1.000", "[n/a]"]


def test_undefined_resamples_are_marked():
    table = paper_predictions().iloc[[0, 84, 98, 99, 187]].assign(patient=list("abbcc"))
    text = report_text.format_report(evaluate(table))
    assert "]+" in text
    assert "+ Undefined in some resamples" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns=["patient", "CrPa"]), "lack the columns patient, CrPa"),
        (lambda table: table.iloc[:0], "at least one image"),
        (lambda table: pd.concat([table, table.iloc[:1]]), r"row 60 .* '0.png' occurs twice"),
        (lambda table: table.assign(patient=table["patient"].mask(table.index == 3)), "row 3 .* has no patient"),
        (lambda table: table.drop(columns="GGO_probability"), "all of GGO"),
        (lambda table: table.assign(covid=table["covid"].where(table.index != 5, 2)), "label .* in row 5"),
        (lambda table: table.assign(covid_logit=np.nan), r"'0.png' \(row 0\)"),
    ],
)
def test_wrong_tables_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(change(predictions()))


def test_probabilities_of_another_temperature_are_refused():
    with pytest.raises(ValueError, match=r"at temperature 1 gives .* another temperature"):
        evaluate(predictions(), temperature=1.0)


def test_wrong_thresholds_and_prevalences_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        evaluate(predictions(), threshold=1.4)
    with pytest.raises(ValueError, match="prevalence"):
        evaluate(predictions(), prevalence=5)


def test_comparison_matches_images_and_subtracts_the_second_run():
    a, b = predictions(seed=1), predictions(seed=2, lesions=False)
    result = report.compare(a, b.iloc[::-1], thresholds=(0.4, 0.5), resamples=200)
    in_order = report.compare(a, b, thresholds=(0.4, 0.5), resamples=200)
    assert result == in_order
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    own = evaluate(a)["covid"]
    other = evaluate(b)["covid"]
    for name, first, second in (
        ("auc", own["auc"], other["auc"]),
        ("sensitivity", own["at_threshold"]["sensitivity"], other["at_0.5"]["sensitivity"]),
    ):
        row = result["metrics"][name]
        assert (row["a"], row["b"]) == (first["value"], second["value"])
        assert row["difference"] == pytest.approx(first["value"] - second["value"])
        assert row["low"] < row["difference"] < row["high"]
        assert 0 < row["p"] <= 1
    assert (result["images"], result["patients"], result["thresholds"]) == (60, 30, [0.4, 0.5])


def test_comparison_reads_as_a_table():
    a = paper_predictions()
    b = a.assign(covid_logit=a["covid_logit"].where(a.index >= 10, -3.0))  # ten positives fewer
    b["covid_probability"] = calibrated_probabilities(b["covid_logit"], TEMPERATURE)
    text = report_text.format_comparison(report.compare(a, b, resamples=500), ("LA-DNN", "baseline"))
    lines = text.splitlines()
    assert lines[0] == "LA-DNN against baseline: 203 images of 203 patients, 98 positive"
    sensitivity = next(line for line in lines if line.startswith("sensitivity"))
    assert "85.7 %   75.5 %     +10.2 points [+" in sensitivity
    assert sensitivity.endswith("0.0040")  # 2 / 501: no resample on the other side
    specificity = next(line for line in lines if line.startswith("specificity"))
    assert specificity.split()[-2:] == ["[n/a]", "n/a"]


def test_comparison_of_a_single_class_has_undefined_lines():
    a = paper_predictions().iloc[:98]
    text = report_text.format_comparison(report.compare(a, a, resamples=50), ("a", "b"))
    auc = next(line for line in text.splitlines() if line.startswith("AUC"))
    assert auc.split() == ["AUC", "n/a", "n/a", "n/a", "n/a"]


def test_comparison_refuses_other_images_labels_or_patients():
    table = predictions()
    with pytest.raises(ValueError, match=r"1 images are in one table alone, such as '59\.png'"):
        report.compare(table, table.iloc[:-1])
    with pytest.raises(ValueError, match=r"disagree about the covid of image '0\.png'"):
        report.compare(table, table.assign(covid=1 - table["covid"]))
    with pytest.raises(ValueError, match=r"disagree about the patient of image '0\.png'"):
        report.compare(table, table.assign(patient="x"))


def test_a_table_read_back_from_csv_gives_the_same_numbers(tmp_path):
    table = predictions()
    table.to_csv(tmp_path / "predictions_test.csv", index=False, float_format="%.9g")
    result = evaluate(pd.read_csv(tmp_path / "predictions_test.csv"))
    direct = evaluate(table)
    assert result["subgroups"] == direct["subgroups"]
    assert result["covid"]["auc"] == direct["covid"]["auc"]
    assert result["covid"]["at_threshold"] == direct["covid"]["at_threshold"]
