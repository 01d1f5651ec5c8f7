"""Reports: what their words say of the five lesions, what they leave open, and how the reading is measured."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support
from tiny_covid_ct import write_covid_ct

from ladnn_tf.data import phantom_report, reports_measured, reports_table
from ladnn_tf.data.report_rules import CUES, TERMS
from ladnn_tf.data.report_sentences import normalise, part_of_panel
from ladnn_tf.data.reports import lesions_from_report, lesions_named, main, speaks_of_lungs
from ladnn_tf.labels import LESIONS


def _read(text, **options):
    return " ".join(lesion for lesion, there in lesions_from_report(text, **options).items() if there)


@pytest.mark.parametrize(
    ("text", "lesions"),
    [
        ("Bilateral ground-glass opacities.", "GGO"),
        ("Ground glass attenuation", "GGO"),
        ("patchy GGOs", "GGO"),
        ("gound-glass opacity", "GGO"),
        ("Shadows of frosted glass", "GGO"),
        ("Hazy areas in both lungs", "GGO"),
        ("patchy shadows in the left lung", "GGO"),
        ("patchy high-density shadows", ""),
        ("patchy consolidation shadows", "Csld"),
        ("Consolidative opacities; consolidated lung", "Csld"),
        ("consolidation chemotherapy for leukaemia", ""),
        ("red hepatization of the left lower lobe", "Csld"),
        ("crazy-paving pattern", "CrPa"),
        ("crazy pavement appearance", "CrPa"),
        ("paving-stone sign", "CrPa"),
        ("Air-bronchograms", "AirBr"),
        ("air bronchographic sign", "AirBr"),
        ("air-filled bronchi", "AirBr"),
        ("air bronchus sign", "AirBr"),
        ("bronchial inflation sign", "AirBr"),
        ("bronchography was done", ""),
        ("interlobular septal thickening", "InSepThi"),
        ("Thickening of the smooth interlobular septa", "InSepThi"),
        ("The interlobular septa were markedly thickened", "InSepThi"),
        ("inter- and intra-lobular septal thickening", "InSepThi"),
        ("Kerley B lines", "InSepThi"),
        ("thin septal lines", "InSepThi"),
        ("interventricular septal thickening, nasal septum thickened", ""),
        ("bronchial wall thickening and reticulation", ""),
        ("showingmultiplegroundglassopacities,withconsolidationandairbronchograms", "GGO Csld AirBr"),
        ("acrazy-pavingpatternandinterlobularseptalthickening", "CrPa InSepThi"),
        ("Crazy paving in ground-glass\nopacity with air bronchogram", "GGO CrPa AirBr"),
        ("", ""),
    ],
)
def test_terms_of_the_lesions(text, lesions):
    assert _read(text) == lesions
    assert list(lesions_from_report(text)) == list(LESIONS)


@pytest.mark.parametrize(
    ("text", "lesions"),
    [
        ("No consolidation, crazy paving or air bronchogram. Bilateral GGO.", "GGO"),
        ("No pleural effusion, bilateral ground-glass opacities.", "GGO"),
        ("GGO without consolidation", "GGO"),
        ("No evidence of GGO with consolidation", "Csld"),
        ("No fever, CT showed consolidation", "Csld"),
        ("Absence of consolidation or GGO", ""),
        ("The lungs are free of consolidation", ""),
        ("Neither consolidation nor air bronchogram is seen", ""),
        ("The CT did not show any consolidation but showed GGO", "GGO"),
        ("GGO not associated with consolidation", "GGO"),
        ("Ground glass opacities and consolidation were not seen.", ""),
        ("Air bronchograms, consolidation and GGO are absent", ""),
        ("Large consolidation was not seen", ""),
        ("Consolidation is no longer visible.", ""),
        ("Consolidation was ruled out", ""),
        ("Consolidation cannot be excluded", "Csld"),
        ("Consolidation: none. GGO: present", "GGO"),
        ("GGO (-), consolidation (+)", "Csld"),
        ("No new ground-glass opacities", ""),
        ("No change of the consolidation", "Csld"),
        ("CT without contrast shows GGO", "GGO"),
        ("Patient No. 3: GGO", "GGO"),
        ("Not only GGO but also consolidation", "GGO Csld"),
        ("GGO is not limited to the lower lobes", "GGO"),
        ("CT was negative for consolidation", ""),
        ("GGO rather than consolidation", "GGO"),
        ("Consolidation cannot be seen", ""),
        ("Consolidation can't be clearly seen", ""),
        ("GGO w/o consolidation", "GGO"),
        ("Consolidation has not been observed", ""),
        ("Consolidation wasn't seen", ""),
        ("Consolidation isn\u2019t present", ""),
        ("CT didn't show GGO", ""),
        ("Nil consolidation", ""),
        ("Non-consolidated lung. Nonconsolidated GGO", "GGO"),
        ("GGO: (-)", ""),
        ("GGO - none", ""),
        ("Consolidation- none", ""),
        ("Ground-glass opacities: none", ""),
        ("Ground-glass opacity (GGO): nil", ""),
        ("Consolidation: no", ""),
        ("Consolidation: no change", "Csld"),
        ("GGO - no pleural effusion", "GGO"),
        ("not consistent with consolidation", ""),
        ("Consolidation was not seen and GGO is present", "GGO"),
    ],
)
def test_denial(text, lesions):
    assert _read(text) == lesions


@pytest.mark.parametrize(
    ("text", "lesions"),
    [
        ("Complete resolution of the bilateral GGO with residual consolidation", "Csld"),
        ("Near-complete resolution of GGO", "GGO"),
        ("No resolution of the consolidation", "Csld"),
        ("On day 10, GGO and consolidation had disappeared", ""),
        ("CT showed GGO, which had completely resolved", ""),
        ("GGO persisted and consolidation resolved.", "GGO"),
        ("GGO was completely absorbed", ""),
        ("Slightly absorbed ground-glass opacities", "GGO"),
        ("Most of the GGO were absorbed", "GGO"),
        ("Ground glass shadow absorption and reduced consolidation", "GGO Csld"),
        ("GGO decreased and consolidation improved", "GGO Csld"),
        ("GGO is seen after the fever resolved", "GGO"),
        ("GGO on day 1. Complete resolution of GGO on day 20.", "GGO"),
        ("Complete absorption of the GGO", ""),
        ("Consolidation improved and effusion resolved.", "Csld"),
        ("Consolidation reduced and effusion resolved.", "Csld"),
        ("Consolidation worsened and effusion was not seen.", "Csld"),
        ("Consolidation stable and effusion resolved.", "Csld"),
        ("Consolidation unchanged and effusion disappeared.", "Csld"),
        ("Consolidation improved and resolved.", ""),
        ("Stable consolidation and resolved effusion", "Csld"),
        ("Resolved ground-glass opacities, stable consolidation", "Csld"),
        ("Consolidation stable, no longer growing", "Csld"),
    ],
)
def test_resolution(text, lesions):
    assert _read(text) == lesions


@pytest.mark.parametrize(
    ("text", "lesions"),
    [
        ("New consolidation, not seen on prior scan, in the right lung.", "Csld"),
        ("GGO, not previously seen", "GGO"),
        ("GGO not seen before", "GGO"),
        ("New GGO, absent in the previous CT.", "GGO"),
        ("GGO was not visible on the last CT", "GGO"),
        ("The previously seen GGO is not seen", ""),
        ("Consolidation is not seen, as on the prior scan", ""),
    ],
)
def test_what_was_not_seen_before_is_new(text, lesions):
    assert _read(text) == lesions


@pytest.mark.parametrize(
    ("text", "lesions"),
    [
        ("INDICATION: evaluate for consolidation. FINDINGS: Lungs are clear.", ""),
        ("INDICATION: Known consolidation. Fever. FINDINGS: GGO.", "GGO"),
        ("Indication: known consolidation Findings: GGO", "GGO"),
        ("INDICATION: consolidation on radiograph TECHNIQUE: CT for GGO CT FINDINGS: crazy paving", "CrPa"),
        ("HISTORY\nConsolidation last year.\nFINDINGS\nGGO.", "GGO"),
        ("Clinical information: GGO on an earlier CT.\nComparison: none.\nConsolidation.", "Csld"),
        ("REASON FOR EXAM: consolidation\nIMPRESSION: GGO", "GGO"),
        # No other heading follows: the section is one sentence.
        ("Clinical history: consolidation. CT shows GGO.", "GGO"),
        ("Man with history of consolidation: GGO", "GGO Csld"),
        ("Clinical question: consolidation?", ""),
        ("Clinical question: consolidation or not. Findings: GGO", "GGO"),
        ("Is there GGO? Consolidation is seen.", "Csld"),
        ("Rule out consolidation.", ""),
        ("R/O GGO.", ""),
        ("Evaluate for GGO, consolidation and effusion", ""),
        ("Lungs were assessed for GGO with consolidation", ""),
        ("CT to exclude GGO showed consolidation", "Csld"),
        ("R/O embolism, bilateral GGO", "GGO"),
        ("Cannot rule out consolidation", "Csld"),
    ],
)
def test_what_is_asked_is_no_finding(text, lesions):
    assert _read(text) == lesions


def test_a_question_leaves_the_lesions_unknown():
    assert not speaks_of_lungs("Rule out consolidation.")
    assert not speaks_of_lungs("Clinical question: consolidation?")
    assert not speaks_of_lungs("REASON FOR STUDY: No pneumonia so far. FINDINGS: Multiple nodules.")
    assert speaks_of_lungs("INDICATION: evaluate for consolidation. FINDINGS: Lungs are clear.")


REPORTS = {
    "sections": (
        """CT CHEST WITHOUT CONTRAST

INDICATION: 58-year-old man with fever.
Evaluate for consolidation.
TECHNIQUE: Axial CT.
COMPARISON: None

FINDINGS:
Lungs: Bilateral ground-glass opacities with interlobular
septal thickening. No consolidation.
Pleura: No pleural effusion
Heart: Normal

IMPRESSION:
1. Typical findings of viral pneumonia
2. No pulmonary embolism
""",
        "GGO InSepThi",
    ),
    "numbered": (
        "1) No pulmonary embolism\n2) Bilateral ground-glass opacities\n3. Air bronchograms",
        "GGO AirBr",
    ),
    "numbered, its lines lost": ("1) No pulmonary embolism 2) Bilateral ground-glass opacities", "GGO"),
    "bullets": (
        "Findings\n\u2022 No pleural effusion\n\u2022crazy-paving\n* no GGO\n- consolidation",
        "Csld CrPa",
    ),
    "plain lines": (
        "No pleural effusion\nBilateral ground-glass opacities in both\nlower lobes\nConsolidation on the right",
        "GGO Csld",
    ),
    "plain lines, capitals": ("NO PLEURAL EFFUSION\nGGO IN BOTH LUNGS\nNO CONSOLIDATION", "GGO"),
    "Windows lines": ("No pleural effusion\r\nConsolidation", "Csld"),
    "a line that breaks before an abbreviation": (
        "Lungs with no evidence of\nGGO, consolidation or\nKerley lines.",
        "",
    ),
    "an answer behind a colon": ("Effusion: no\nBilateral GGO", "GGO"),
    "a heading behind a comma": ("HISTORY: consolidation,\nLungs: GGO", "GGO"),
    "a line that breaks behind a comma": ("No crazy paving,\nGGO or consolidation", ""),
    "a form": ("GGO:\nNone\nConsolidation: present\nCrazy paving: (-)", "Csld"),
    "a normal chest": ("HISTORY: GGO in March.\n\nFINDINGS: Lungs are clear.\nIMPRESSION: Normal chest CT.", ""),
}


@pytest.mark.parametrize("layout", REPORTS)
def test_layouts_of_whole_reports(layout):
    text, lesions = REPORTS[layout]
    assert _read(text) == lesions
    assert speaks_of_lungs(text)


def test_what_print_leaves_in_a_text_is_removed():
    assert normalise("ground-\nglass  opaci-\nties, “halo”") == "groundglass opacities, halo"
    assert normalise("inter- and intra-lobular") == "inter- and intra-lobular"
    assert normalise("ground\u2013glass\u00ad \ufb01brosis") == "ground-glass fibrosis"
    # A heading, a list's sign and an empty line end a sentence, the end of a line before a small letter does not.
    assert _read("No effusion\n\nConsolidation") == "Csld"
    assert _read("No effusion\n- Consolidation") == "Csld"
    assert _read("No effusion\nLungs: consolidation") == "Csld"
    assert _read("No\nconsolidation") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT. (A) GGO. (B) Consolidation with\nair bronchograms.", {"a": "GGO", "b": "Csld AirBr"}),
        ("CT of two men: A, GGO. B, Consolidation. No effusion.", {"A": "GGO", "B": "Csld"}),
        ("GGO (a and b) on day 1, and consolidation (c) on day 5.", {"A": "GGO", "B": "GGO", "C": "Csld"}),
        ("GGO was seen (A-C). Consolidation was seen (D).", {"B": "GGO", "D": "Csld"}),
        ("GGO in all. (A) Day 1. (B) Consolidation.", {"A": "GGO", "B": "GGO Csld", "F": "GGO Csld"}),
        ("GGO and consolidation.", {"A": "GGO Csld"}),
    ],
)
def test_the_part_of_a_sub_figure(text, expected):
    assert {panel: _read(text, panel=panel) for panel in expected} == expected


@pytest.mark.parametrize("panel", ["", "AB", "1"])
def test_a_panel_is_one_letter(panel):
    with pytest.raises(ValueError, match="panel should be one letter"):
        part_of_panel("(A) GGO", panel)


@pytest.mark.parametrize(
    "text",
    ["The lungs are clear.", "Normal chest CT", "No obvious abnormality in bilateral lung fields",
     "No consolidation.", "Lung lesions were completely absorbed", "Both lungs appear normal",
     "No evidence of pneumonia", "GGO", "Complete resolution of the lung lesions", "CT of the chest was normal",
     "Chest CT shows no abnormality of both lungs", "No parenchymal abnormality"],
)  # fmt: skip
def test_reports_that_tell_of_the_lesions(text):
    assert speaks_of_lungs(text)


@pytest.mark.parametrize(
    "text",
    ["", "No pleural effusion. No enlarged lymph nodes.", "No focal liver lesion.", "No lesions in the bones.",
     "Abnormal lungs", "Multiple nodules in both lungs", "The lung fields are not normal",
     "No mediastinal abnormality", "Opacidades en vidrio deslustrado",
     "No abnormality of the spine. Multiple nodules.", "No abnormality of the trachea. Reticulation.",
     "Head CT scan was normal. Multiple pulmonary nodules.", "Head CT scan was normal, multiple lung nodules",
     "No lesion of the pulmonary arteries", "No abnormality of the chest wall", "Lesions were completely absorbed",
     "Chest CT: no abnormality of the spine"],
)  # fmt: skip
def test_reports_that_do_not(text):
    assert not speaks_of_lungs(text)
    assert _read(text) == ""


def test_reports_of_phantoms_are_read_as_they_were_written():
    for lesion, templates in phantom_report._LESION_SENTENCES.items():
        for template in templates:
            sentence = template.format(where="bilateral", Where="Bilateral", zone="peripheral")
            for ending in phantom_report._ENDINGS:
                assert _read(sentence + ending) == lesion
    for sentence in phantom_report._UNKNOWN:
        assert not speaks_of_lungs(sentence)


def test_reading_needs_the_standard_library_only():
    code = (
        "import sys, ladnn_tf.data.reports;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'pandas', 'absl', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _captions(rows):
    """Captions from (report, lesions of the image, or None without a label), of one paper each."""
    frame = pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in range(len(rows))],
            "split": ["train", "test"] * (len(rows) // 2) + ["test"] * (len(rows) % 2),
            "report": [report for report, _ in rows],
            "group": [f"paper {i}" for i in range(len(rows))],
            "labelled": [lesions is not None for _, lesions in rows],
            "panel": "",
        }
    )
    for lesion in LESIONS:
        frame[lesion] = [lesion in (lesions or "").split() for _, lesions in rows]
    return frame


SIX = _captions(
    [
        ("GGO", "GGO"),
        ("GGO", "GGO"),
        ("GGO", "Csld"),
        ("Consolidation", None),
        ("Nothing to see", "CrPa"),
        ("The consolidation was not seen", "Csld"),
    ]
)


def test_scores_worked_out_by_hand_and_by_scikit_learn():
    read = reports_measured.apply(lesions_from_report, SIX["report"])
    scores = reports_measured.score(SIX, read)
    # Read: GGO, GGO, GGO, Csld, nothing, nothing.
    assert (scores["GGO"].tp, scores["GGO"].fp, scores["GGO"].fn) == (2, 1, 0)
    assert (scores["Csld"].tp, scores["Csld"].fp, scores["Csld"].fn) == (0, 1, 2)
    assert (scores["micro"].tp, scores["micro"].fp, scores["micro"].fn) == (2, 2, 3)
    assert scores["micro"].f1 == 4 / 9
    truth, answer = (frame[list(LESIONS)].to_numpy(int) for frame in (SIX, read))
    precision, recall, f1, _ = precision_recall_fscore_support(truth, answer, average=None, zero_division=np.nan)
    for i, lesion in enumerate(("GGO", "Csld")):
        s = scores[lesion]
        np.testing.assert_allclose((s.precision, s.recall, s.f1), (precision[i], recall[i], f1[i]))
    assert scores["micro"].f1 == pytest.approx(f1_score(truth, answer, average="micro"))
    assert math.isnan(scores["AirBr"].f1)


def test_the_ceiling_is_a_majority_vote_of_images_with_one_text():
    # Of the three images "GGO" two are GGO; the others are read as labelled.
    best = reports_measured.ceiling(SIX)
    assert (best.tp, best.fp, best.fn) == (4, 1, 1)
    tie = _captions([("a", "GGO"), ("a", "Csld")])
    assert (reports_measured.ceiling(tie).tp, reports_measured.ceiling(tie).fp) == (2, 2)


def test_the_interval_draws_papers():
    read = reports_measured.apply(lesions_from_report, SIX["report"])
    wide = reports_measured.micro_f1_interval(SIX, read)
    assert wide.value == 4 / 9
    assert wide.low < 4 / 9 < wide.high
    assert reports_measured.micro_f1_interval(SIX.assign(group="one paper"), read).low is None


def test_disagreements_are_sorted_by_what_looks_like_an_error_of_the_annotation():
    frame = pd.concat([SIX, _captions([("Crazy paving, GGO", "GGO"), ("consolidation therapy, GGO", "Csld")])])
    frame = frame.reset_index(drop=True)
    read = reports_measured.apply(lesions_from_report, frame["report"])
    listed = reports_measured.disagreements(frame, read, lesions_named)
    found = {(row.report, row.lesion): (row.kind, row.images) for row in listed.itertuples()}
    assert found == {
        ("Nothing to see", "CrPa"): (reports_measured.LABELLED_NOT_NAMED, 1),
        ("Crazy paving, GGO", "CrPa"): (reports_measured.NAMED_NOT_LABELLED, 1),
        ("GGO", "GGO"): (reports_measured.OTHERWISE_ELSEWHERE, 1),
        ("GGO", "Csld"): (reports_measured.OTHERWISE_ELSEWHERE, 1),
        ("Consolidation", "Csld"): (reports_measured.UNLABELLED, 1),
        ("The consolidation was not seen", "Csld"): (reports_measured.READ_OTHERWISE, 1),
        # A keyword is in it, so that the text does name the lesion.
        ("consolidation therapy, GGO", "Csld"): (reports_measured.READ_OTHERWISE, 1),
        ("consolidation therapy, GGO", "GGO"): (reports_measured.NAMED_NOT_LABELLED, 1),
    }
    assert listed["likely_annotation_error"].tolist() == sorted(listed["likely_annotation_error"], reverse=True)
    text = reports_table.disagreements(listed)
    assert "Disagreements: 8 labels of images, 8 of distinct captions" in text
    assert text.index("Nothing to see") < text.index("Crazy paving, GGO") < text.index("The consolidation was")


def test_no_rule_is_a_copy_of_one_caption(shared_data):
    captions = reports_measured.read_captions(str(shared_data / "covid-ct"))
    counts = reports_measured.pattern_counts(captions[captions["split"] == "train"])
    assert len(counts) == sum(len(patterns) for patterns in (TERMS | CUES).values())
    # Each term of a lesion was seen in captions of at least three papers, or is from the glossary alone.
    terms = counts[counts["rule"].isin(LESIONS)]
    assert set(terms["papers"]) & {1, 2} == set()
    assert (terms["captions"] > 0).sum() == 7


def test_published_captions_give_the_published_ceiling(shared_data):
    captions = reports_measured.read_captions(str(shared_data / "covid-ct"))
    assert (len(captions), captions["report"].nunique(), int(captions["labelled"].sum())) == (336, 147, 238)
    # 0.988 for the raw cells, of which two differ in white space only.
    assert reports_measured.ceiling(captions).f1 == pytest.approx(0.985, abs=5e-4)
    keywords = reports_measured.apply(reports_measured.keyword_lesions, captions["report"])
    assert reports_measured.score(captions, keywords)["micro"].f1 == pytest.approx(0.92, abs=5e-3)
    # One picture of several: `%2` is the third, `c`.
    panels = captions.set_index("image")["panel"]
    assert panels["images/CT_COVID/2020.02.23.20026856-p17-115%2.png"] == "c"
    assert panels["images/CT_COVID/2020.02.10.20021584-p6-52%1.png"] == ""


def test_command(tmp_path, capsys):
    folder = write_covid_ct(tmp_path / "d0")
    path = tmp_path / "out" / "disagreements.csv"
    assert main(["reports", f"--covid_ct={folder}", f"--csv={path}", "--patterns"]) == 0
    text = capsys.readouterr().out
    assert "validation: 1 captions, 1 distinct, 1 papers" in text
    assert "all: 3 captions, 3 distinct, 2 papers" in text
    # Labelled: GGO, AirBr; Csld, InSepThi; CrPa. The texts name none of them.
    assert text.count("(looks like an error of the annotation): 5 labels, 5 captions") == 1
    assert "ground glass" in text
    table = pd.read_csv(path)
    assert len(table) == 5
    assert set(table["annotated"]) == {1}
    with pytest.raises(SystemExit) as stop:
        main(["reports"])
    assert stop.value.code == 2


def test_command_without_captions(tmp_path):
    folder = write_covid_ct(tmp_path / "d0")
    file = folder / "la-dnn" / "COVID-CT-MetaInfo_new.csv"
    lines = file.read_bytes().splitlines()
    rows = [b",".join(line.split(b",")[:8]) for line in lines if line.count(b",") >= 7]
    file.write_bytes(b"\n".join(rows) + b"\n")
    with pytest.raises(ValueError, match="no positive image has a caption"):
        main(["reports", f"--covid_ct={folder}"])
