"""Finding the answers in odd notebooks: no text and no code of an honest student is lost without a word."""

import json
import re

import pytest

from tools import handed_in
from tools.notebooks import CODE_STUB, TEXT_STUB

SOFTMAX, MASK = "def softmax(x):\n    return x", "def mask(n):\n    return n"


def cell(kind, source, grade_id=None, **marks):
    nbgrader = {"nbgrader": {"grade_id": grade_id} | marks} if grade_id else {}
    return {"cell_type": kind, "source": source, "metadata": nbgrader}


def stub(name, head):
    body = CODE_STUB.replace("\n", "\n    ")
    return cell("code", f"# @answer {name}\n{head}\n    {body}", name, solution=True)


def blank():
    """A homework with two functions, a check, and two written answers."""
    return [
        cell("markdown", "# Homework"),
        cell("code", "import math", "imports", locked=True),
        cell("markdown", "### q1 (2 points). Softmax"),
        stub("q1", "def softmax(x):"),
        cell("code", "assert softmax(1) == 1", "check_q1", grade=True, points=2),
        cell("markdown", "### q2 (1 point, written). Why?\n\nSay why."),
        cell("markdown", f"<!-- @answer q2 -->\n{TEXT_STUB}", "q2", solution=True, grade=True, points=1),
        cell("markdown", "### q3 (1 point). Mask"),
        stub("q3", "def mask(n):"),
        cell("markdown", "### q4 (1 point, written). And?"),
        cell("markdown", f"<!-- @answer q4 -->\n{TEXT_STUB}", "q4", solution=True, grade=True, points=1),
        cell("markdown", "## Hand in"),
    ]


Q1, CHECK, TASK2, Q2, Q3, TASK4, Q4 = 3, 4, 5, 6, 8, 9, 10


def parsed(cells, minor=5):
    return handed_in.parse(json.dumps({"nbformat": 4, "nbformat_minor": minor, "cells": cells}).encode())


def found(cells):
    return handed_in.find(parsed(blank()), parsed(cells))


def states(result):
    return {ours.answer: result.state(i) for i, ours in enumerate(result.release) if ours.solution}


def near(result, index):
    return [one.source for one in result.near(index)]


def without_metadata(cells):
    return [one | {"metadata": {}} for one in cells]


def without_markers(cells):
    return [one | {"source": re.sub(r".*@answer.*\n", "", one["source"])} for one in cells]


NOTHING = {"q1": "blank", "q2": "blank", "q3": "blank", "q4": "blank"}


def test_blank_is_blank_with_and_without_its_metadata():
    assert states(found(blank())) == NOTHING == states(found(without_metadata(blank())))
    assert states(found(without_markers(without_metadata(blank()))))["q2"] == "missing"
    assert states(found([])) == dict.fromkeys(NOTHING, "missing")
    spaced = blank()
    spaced[Q1]["source"] = "# @answer q1\n# my idea\n\n"
    spaced[Q2]["source"] = "\u200b \n"
    assert states(found(spaced)) == NOTHING


def test_written_answer_is_found_by_its_marker():
    cells = without_metadata(blank())
    for source in (
        "Because.\n<!-- @answer q2 -->",
        "> <!-- @answer q2 --> Because.",
        "&lt;!-- @answer q2 --&gt;\nBecause.",
        "\\<!-- @answer q2 --\\>\n\nBecause.",
    ):
        cells[Q2]["source"] = source
        result = found(cells)
        assert (
            states(result) == NOTHING | {"q2": "answered"}
            and result.answer(Q2)[0].words.strip("> ") == "Because."
        )


def test_written_answer_without_anything_is_found_under_its_heading():
    cells = without_markers(without_metadata(blank()))
    cells[Q2]["source"] = "Because of Jensen."
    cells.insert(Q2 + 1, cell("raw", "And of Markov."))
    result = found(cells)
    assert states(result)["q2"] == "answered" and near(result, Q2) == ["Because of Jensen.", "And of Markov."]
    assert states(result)["q4"] == "missing" and near(result, Q4) == []
    cells[TASK2]["source"] = "### Q2: why"  # the heading alone is enough
    assert near(found(cells), Q2)[-2:] == ["Because of Jensen.", "And of Markov."]


@pytest.mark.parametrize("shift", [0, 1], ids=["above", "below"])
@pytest.mark.parametrize("kind", ["markdown", "raw"])
def test_text_beside_a_blank_is_the_answer(shift, kind):
    cells = blank()
    cells.insert(Q2 + shift, cell(kind, "My proof."))
    result = found(cells)
    assert states(result) == NOTHING | {"q2": "answered"} and near(result, Q2) == ["My proof."]


def test_text_in_the_place_of_an_answer_or_of_its_task_is_the_answer():
    for gone in ([Q2], [TASK2, Q2], [TASK2]):
        cells = blank()
        cells[gone[0] : gone[-1] + 1] = [cell("markdown", "My proof.")]
        result = found(cells)
        assert states(result) == NOTHING | {"q2": "answered"} and near(result, Q2) == ["My proof."]


def test_text_written_into_the_task_is_the_answer():
    for place in (TASK2, Q2 + 1):
        cells = blank()
        cells[place]["source"] += "\n\nMy proof."
        result = found(cells)
        assert states(result) == NOTHING | {"q2": "answered"} and near(result, Q2) == ["My proof."]


def test_text_far_away_counts_if_it_names_a_blank_answer():
    cells = blank()
    cells.append(cell("markdown", "My proof of Q2: because."))
    cells.insert(1, cell("markdown", "My name is Anna."))
    result = found(cells)
    assert states(result) == NOTHING | {"q2": "answered"}
    cells[Q2 + 1]["source"] = "Because."
    assert near(found(cells), Q2) == []


LONG = "My proof: $E[x] \\ge 0$."


@pytest.mark.parametrize("place", [0, CHECK + 1, Q3 + 1, len(blank())], ids=["top", "check", "task", "end"])
def test_long_text_that_names_nothing_counts_for_what_is_blank(place):
    for text in (LONG, "word " * 25, "![](proof.png)"):
        cells = blank()
        cells.insert(place, cell("markdown", text))
        result = found(cells)
        assert states(result) == NOTHING | {"q2": "answered", "q4": "answered"}
        assert [one.number for one in result.far] == [place + 1]
        cells[place] = cell("code", f"%%latex\n{text}")
        assert states(found(cells))["q2"] == "answered"
        cells[place] = cell("code", "\n".join(f"# x = {text}" for _ in range(9)))  # code that was tried
        assert states(found(cells)) == NOTHING
    cells = blank()
    cells[Q2]["source"] = cells[Q4]["source"] = "Because."
    cells.insert(place, cell("markdown", LONG))
    assert near(found(cells), Q2) == near(found(cells), Q4) == [] and len(found(cells).far) == 1
    cells[place]["source"] = "I worked with Anna."
    assert found(cells).far == []


def test_text_beside_another_answer_is_no_far_one():
    cells = blank()
    cells[Q2]["source"] = "Because."
    cells.insert(Q2 + 1, cell("markdown", LONG))
    assert states(found(cells)) == NOTHING | {"q2": "answered"} and found(cells).far == []


def test_answers_headed_in_another_answers_cell_are_found():
    cells = blank()
    cells[Q2]["source"] = f"<!-- @answer q2 -->\nBecause.\n\n**Q4.** {LONG}"
    for _ in range(2):  # the stub of q4 is blank, then gone
        result = found(cells)
        assert states(result) == NOTHING | {"q2": "answered", "q4": "answered"}
        assert near(result, Q4) == [cells[Q2]["source"]]
        cells = [one for one in cells if "@answer q4" not in one["source"]]
    cells[Q2]["source"] = "<!-- @answer q2 -->\nBecause of q4."
    assert states(found(cells))["q4"] == "missing"


def test_copied_cell_below_another_task_is_its_answer():
    cells = blank()
    cells[Q2]["source"] += "\nBecause."
    cells[Q4] = cells[Q2] | {"source": LONG}  # copied with its grade id, and all of its text replaced
    result = found(cells)
    assert [one.source for one in result.answer(Q4)] == [LONG] and len(result.answer(Q2)) == 1
    assert "answer q4 was found below the task" in result.notes
    cells[Q4]["source"] = f"<!-- @answer q2 -->\n{LONG}"  # says whose it is
    assert len(found(cells).answer(Q2)) == 2


def test_paragraphs_of_a_task_that_an_editor_split_are_ours():
    cells = without_markers(without_metadata(blank()))
    heading, body = cells[TASK2]["source"].split("\n\n")
    cells[TASK2 : Q2 + 1] = [cell("markdown", source) for source in (heading, body, LONG)]
    assert near(found(cells), Q2) == [LONG]


def test_our_own_text_with_a_students_name_in_it_is_no_answer():
    title = cell("markdown", "# Homework\n\nTwo tasks: q1, q2, q3, q4.\n\nName:")
    release = handed_in.parse(json.dumps({"nbformat": 4, "cells": [title, *blank()[1:]]}).encode())
    cells = without_metadata([title | {"source": f"{title['source']} Anna"}, *blank()[1:]])
    assert states(handed_in.find(release, parsed(cells))) == NOTHING
    cells[0]["source"] += "\n\nMy proof of q2: because."
    assert states(handed_in.find(release, parsed(cells))) == NOTHING | {"q2": "answered"}


def test_words_in_a_code_cell_beside_a_blank_count():
    for source in ("%%markdown\nMy proof.", "# My proof.\n# Qed.", '"""My proof."""'):
        cells = blank()
        cells.insert(Q2 + 1, cell("code", source))
        assert near(found(cells), Q2) == [source]
    cells[Q2 + 1]["source"] = "x = 1"
    assert near(found(cells), Q2) == []


def test_copy_of_our_own_text_is_no_answer():
    cells = blank()
    cells[Q2 + 1 : Q2 + 1] = [dict(cells[TASK2]), cell("markdown", f"{TEXT_STUB}\n")]
    assert states(found(cells)) == NOTHING


def test_answer_merged_with_its_task_is_what_the_student_wrote():
    cells = blank()
    merged = f"{cells[TASK2]['source']}\n\n{cells[Q2]['source']}"
    cells[TASK2 : Q2 + 1] = [cells[TASK2] | {"source": merged}]
    assert states(found(cells)) == NOTHING
    cells[TASK2]["source"] = merged.replace(TEXT_STUB, "My proof.\n\nSay why not.")
    (answer,) = found(cells).answer(Q2)
    assert states(found(cells))["q2"] == "answered" and answer.words == "My proof.\n\nSay why not."


def test_picture_alone_is_an_answer():
    cells = blank()
    cells[Q2]["attachments"] = {"proof.png": {"image/png": "iVBO\n"}}
    result = found(cells)
    assert states(result)["q2"] == "answered"
    assert result.answer(Q2)[0].attachments == {"proof.png": "data:image/png;base64,iVBO"}


def test_two_answers_in_one_cell_are_split_at_their_markers():
    cells = blank()
    cells[Q1]["source"] = f"import os\n# @answer q1\n{SOFTMAX}\n# @answer q3\n{MASK}"
    cells[Q2]["source"] = "First.\n<!-- @answer q2 -->\nSecond.\n<!-- @answer q4 -->\nThird."
    del cells[Q4], cells[Q3]
    result = found(cells)
    assert set(states(result).values()) == {"answered"}
    assert [one.source for one in result.answer(Q1)] == [f"import os\n# @answer q1\n{SOFTMAX}"]
    assert [one.source for one in result.answer(Q3)] == [f"# @answer q3\n{MASK}"]
    assert "First." in result.answer(Q2)[0].words and "Second." in result.answer(Q2)[0].words
    assert result.answer(Q4)[0].words == "Third."


def test_marker_may_stand_anywhere_and_wins_over_a_copied_grade_id():
    cells = without_metadata(blank())
    cells[Q1]["source"] = f"import os\n\n{SOFTMAX.replace('softmax', 'other')}\n# @answer q1"
    cells[Q3] = cell("code", f"# @answer q3\n{MASK}", "q1", solution=True)
    result = found(cells)
    assert states(result) == NOTHING | {"q1": "answered", "q3": "answered"}
    assert len(result.answer(Q1)) == len(result.answer(Q3)) == 1


def test_names_are_found_in_every_cell_and_the_blank_is_left_out():
    cells = blank()
    cells.insert(Q1, cell("code", f"{SOFTMAX}\n{MASK}"))  # above the stubs, which would undo it
    result = found(cells)
    assert states(result) == NOTHING | {"q1": "answered", "q3": "answered"}
    assert (
        [one.source for one in result.answer(Q1)]
        == [f"{SOFTMAX}\n{MASK}"]
        == [one.source for one in result.answer(Q3)]
    )
    assert len(result.left_out) == 2
    cells = blank()
    cells[Q1]["source"] = f"# @answer q1\n{SOFTMAX}\nmask = lambda n: n"
    assert states(found(cells)) == NOTHING | {"q1": "answered", "q3": "answered"}


def test_own_cell_that_redefines_a_full_answer_stays_where_it_is():
    cells = blank()
    cells[Q1]["source"] = f"# @answer q1\n{SOFTMAX}"
    cells.append(cell("code", SOFTMAX))
    assert found(cells).stands_for[-1] is None


def test_exact_copy_of_a_check_is_the_students_own():
    cells = blank()
    cells.insert(Q1, dict(cells[CHECK]))
    result = found(cells)
    assert result.places(CHECK) == [Q1] and result.stands_for[CHECK + 1] is None
    cells[CHECK + 1] = cells[CHECK + 1] | {"source": "print(softmax(1))"}  # the exact one is ours
    assert found(cells).places(CHECK) == [Q1]


@pytest.mark.parametrize("minor", range(6))
def test_one_reader_for_every_form_of_file(minor):
    lines = blank()
    for one in lines:
        one["source"] = one["source"].splitlines(keepends=True)
    text = json.dumps({"nbformat": 4, "nbformat_minor": minor, "cells": lines})
    for raw in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.encode("utf-16-le"),
        text.replace("\\n", "\\r\\n").encode(),
    ):
        assert handed_in.parse(raw) == parsed(blank())


def test_many_texts_of_a_students_own_take_no_minutes():
    cells = [cell("markdown", f"Text {number} of q2 and q4.") for number in range(handed_in.CELL_LIMIT)]
    assert len(found(cells).near(Q4)) == handed_in.CELL_LIMIT
    assert states(found([*cells[:500], *blank(), *cells[:500]]))["q4"] == "answered"


def test_patterns_take_a_time_linear_in_what_strangers_write():
    for unit in (
        " ",
        "#",
        "# ",
        "> ",
        "\n",
        "# @answer",
        "<!--",
        "@answer ",
        "def ",
        "from a import ",
        TEXT_STUB,
    ):
        one = handed_in.parse(
            json.dumps({"nbformat": 4, "cells": [cell("markdown", unit * 300_000)]}).encode()
        )
        result = handed_in.find(parsed(blank()), [*one, handed_in.Cell("code", one[0].source)])
        assert states(result)["q1"] in ("missing", "blank", "answered")


def test_no_name_of_a_picture_is_half_a_character():
    raw = b'{"nbformat": 4, "cells": [{"attachments": {"\\ud800": {"\\ud800": "x"}}}]}'
    (cell,) = handed_in.parse(raw)
    assert cell.attachments == {"?": "data:?;base64,x"}
