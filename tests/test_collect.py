"""What is handed in, under any name and in any wrapping: a row for each, and nobody loses by another."""

import io
import os
import struct
import unicodedata
import zipfile

import nbformat
import pytest

from grading import collect, marks, store, submission
from tests.test_grading import reference, solution_notebook, students
from tools.handed_in import Unreadable, parse

NOTEBOOK, WEIGHTS = "hw9.ipynb", "hw9_q3.safetensors"


def handed_in(folder, **files):
    """Write files, given by path, and return what is read of each submission, by student."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = collect.collect(folder)
    return {one.student: (one, collect.read(one, NOTEBOOK, [WEIGHTS], RELEASE)) for one in found}


def zipped(*, compression=zipfile.ZIP_DEFLATED, **files):
    """Return an archive of files, given by path."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


BLANK = nbformat.writes(students.student_version(solution_notebook()))
ANSWERED, RELEASE = nbformat.writes(reference()), parse(BLANK.encode())
COURSE = {  # by path in a clone, the notebook apart
    "README.md": "x",
    "tools/check.py": "x",
    "seminars/seminar1/seminar1.ipynb": "{}",
    "homeworks/homework8/hw8.ipynb": "{}",
    "models/old/hw9_q3.safetensors": "not theirs",
    ".venv/lib/more/hw9.ipynb": "no",
    f"homeworks/homework9/{WEIGHTS}": "w",
}
PLACE = f"homeworks/homework9/{NOTEBOOK}"
IN_FOLDER = {f"anna/{NOTEBOOK}": "{}", f"anna/{WEIGHTS}": "w"}
TAKEN = {  # what is handed in: a word of the note (None: there is none), whether the weights are there
    "a notebook": ({"anna.ipynb": "{}"}, None, False),
    "a folder": (IN_FOLDER, None, True),
    "a notebook, weights in a folder": ({"anna.ipynb": "{}", f"anna/{WEIGHTS}": "w"}, None, True),
    "capitals": ({"anna.IPYNB": "{}"}, "anna.IPYNB was read", False),
    "saved as text": ({"anna.ipynb.txt": "{}"}, "call it hw9.ipynb", False),
    "saved as JSON": ({"anna/hw9.ipynb.json": "{}"}, "called hw9.ipynb.json, not", False),
    "a zip": ({"anna.zip": zipped(**{NOTEBOOK: "{}", WEIGHTS: "w"})}, "taken from anna.zip", True),
    "a folder in a zip": ({"anna.zip": zipped(**IN_FOLDER)}, "one folder deeper, in anna", True),
    "a zip of a Mac": (
        {"anna.zip": zipped(**IN_FOLDER, **{f"__MACOSX/._{NOTEBOOK}": "x", ".DS_Store": "x"})},
        "one folder deeper",
        True,
    ),
    "a zip in a folder": ({"anna/work.zip": zipped(**IN_FOLDER)}, "taken from work.zip", True),
    "a zip that would climb": ({"anna.zip": zipped(**{f"../../{NOTEBOOK}": "{}"})}, "taken from", False),
    "a zip of Windows": ({"anna.zip": zipped(**{f"C:\\{NOTEBOOK}": "{}"})}, "deeper, in C:", False),
    "a notebook and a zip in a folder": ({**IN_FOLDER, "anna/more.zip": "x"}, "not opened: more.zip", True),
    "one folder deeper": ({f"anna/homework/{NOTEBOOK}": "{}", f"anna/{WEIGHTS}": "w"}, "deeper", True),
    "a second download": ({"anna/hw9 (1).ipynb": "{}"}, "called hw9 (1).ipynb, not hw9.ipynb", False),
    "two downloads": (
        {"anna/hw9.ipynb": "{}", "anna/hw9 (1).ipynb": "no"},
        "other notebooks were not graded: hw9 (1).ipynb",
        False,
    ),
    "a copy and another": ({"anna/HW9-Copy1.ipynb": "{}", "anna/try.ipynb": "no"}, "graded: try", False),
    "weights downloaded twice": (
        {f"anna/{NOTEBOOK}": "{}", "anna/hw9_q3 (1).safetensors": "w"},
        "hw9_q3 (1).safetensors was read as hw9_q3.safetensors",
        True,
    ),
    "weights of another name": (
        {f"anna/{NOTEBOOK}": "{}", "anna/model.safetensors": "w"},
        "hw9_q3.safetensors is missing; there is model.safetensors",
        False,
    ),
    "a folder of many files": (
        {**IN_FOLDER, **{f"anna/data/{i}.png": "x" for i in range(1_100)}},
        None,
        True,
    ),
    "two files of weights": (
        {f"anna/{NOTEBOOK}": "{}", "anna/hw9_q3(1).safetensors": "a", "anna/HW9_q3.safetensors": "b"},
        "none of HW9_q3.safetensors, hw9_q3(1).safetensors was read",
        False,
    ),
    "what systems leave": (
        {**IN_FOLDER, "anna/.ipynb_checkpoints/hw9-checkpoint.ipynb": "no", "anna/Thumbs.db": "x"},
        None,
        True,
    ),
    "proofs in a PDF": (
        {
            **IN_FOLDER,
            "anna/proofs.pdf": "x",
            **{f"anna/photo {i}.JPG": "x" for i in range(3)},
            "anna/a.csv": "",
        },
        "not read, only the notebook is: photo 0.JPG, photo 1.JPG, photo 2.JPG and 1 more",
        True,
    ),
    "a module in a zip": (
        {"anna.zip": zipped(**IN_FOLDER, **{"anna/helper.py": "x", "doc/a.pdf": "x"})},
        "not read, only the notebook is: helper.py",
        True,
    ),
    "an export beside": ({"anna.ipynb": "{}", "anna.py": "x"}, "anna.py was not graded: anna.ipynb", False),
    "a zip beside": ({**IN_FOLDER, "anna.zip": "x"}, "anna.zip was not graded: anna was", True),
}


@pytest.mark.parametrize("what", TAKEN)
def test_taken_with_a_note_where_it_is_odd(tmp_path, what):
    files, word, weights = TAKEN[what]
    ((student, (one, read)),) = handed_in(tmp_path, **files).items()
    assert student == "anna" and read.notebook() == b"{}", read
    notes = " | ".join([*one.notes, *read.notes])
    assert bool(notes) == (word is not None) and (word or "") in notes
    assert read.weights == ({WEIGHTS: b"w"} if weights else {})
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(files)  # nothing was unpacked


BOMB = zipped(**{NOTEBOOK: b"x" * (collect.FILE_LIMIT + 1)})
WHOLE = zipped(**{NOTEBOOK: "{}"})
FAR = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)  # where an entry begins, in the form for large archives


def with_directory(change):
    """Return an archive whose directory, of one entry, is changed."""
    start, end = WHOLE.index(b"PK\1\2"), WHOLE.index(b"PK\5\6")
    entry = change(bytearray(WHOLE[start:end]))
    return WHOLE[:start] + entry + WHOLE[end : end + 12] + struct.pack("<LLH", len(entry), start, 0)


def far_away(entry):
    entry[30:32], entry[42:46] = struct.pack("<H", len(FAR)), b"\xff" * 4
    return bytes(entry) + FAR


def nameless(entry):
    entry[28:30] = bytes(2)
    return bytes(entry[:46])


LIES = BOMB.replace((collect.FILE_LIMIT + 1).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
REFUSED = {
    "a program": ({"anna.py": "x"}, "a .py file: hand in the notebook, hw9.ipynb"),
    "a program in a folder": ({"anna/hw9.py": "x"}, "no notebook.*hw9.py: a .py file"),
    "another archive": ({"anna.tar.gz": "x"}, "a .tar.gz archive is not opened"),
    "two notebooks": ({"anna/a.ipynb": "{}", "anna/b.ipynb": "{}"}, "2 notebooks, none called hw9.ipynb"),
    "two zips": ({"anna/a.zip": "x", "anna/b.zip": "x"}, "no notebook"),
    "no notebook": ({"anna/notes.txt": "x"}, "no notebook: hw9.ipynb is expected"),
    "far too deep": ({f"anna/a/b/c/d/e/{NOTEBOOK}": "{}"}, "no notebook: .* at the top or one folder deeper"),
    "another one deep": ({"anna/a/b/hw8.ipynb": "{}"}, "no notebook: .* at the top or one folder deeper"),
    "many copies of a notebook": (
        {"anna.zip": zipped(**{f"a/b/{i}/{NOTEBOOK}": "{}" for i in range(11)})},
        "11 notebooks called hw9.ipynb, far down",
    ),
    "a bomb far down": ({"anna.zip": zipped(**{f"a/b/{NOTEBOOK}": b"x" * 3_000_000})}, "more than 500 times"),
    "large outputs": ({"anna.ipynb": " " * (collect.FILE_LIMIT + 1)}, "are read: clear its outputs"),
    "not a zip": ({"anna.zip": "PK"}, "anna.zip: a zip that cannot be opened"),
    "a bomb": ({"anna.zip": BOMB}, "more than 20,000,000 bytes"),
    "a bomb that lies": ({"anna.zip": LIES}, "cannot be unpacked|grows more|more than 20"),
    "a small bomb": ({"anna.zip": zipped(**{NOTEBOOK: b"x" * 3_000_000})}, "grows more than 500 times"),
    "thousands of files": ({"anna.zip": zipped(**{f"{i}.txt": "" for i in range(5001)})}, "more than 5,000"),
    "another method": (
        {"anna.zip": zipped(compression=zipfile.ZIP_LZMA, **{NOTEBOOK: "{}"})},
        "packed by a method that is not read",
    ),
    "a broken zip": (
        {"anna.zip": zipped(**{NOTEBOOK: "{}" * 99}).replace(b"PK\x03\x04", b"PK\x03\x05")},
        "cannot be unpacked",
    ),
    "a zip that points far away": ({"anna.zip": with_directory(far_away)}, "cannot be unpacked"),
    "a zip without names": ({"anna.zip": with_directory(nameless)}, "no notebook"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(tmp_path, what):
    files, reason = REFUSED[what]
    ((student, (_, read)),) = handed_in(tmp_path, **files).items()
    assert student == "anna" and not read.raw
    with pytest.raises(Unreadable, match=reason):
        read.notebook()


def test_every_file_has_a_row_and_hidden_ones_have_none(tmp_path):
    rows = ["anna.ipynb", "list.csv", "hw9_q3.safetensors", "scan.pdf"]
    hidden = [".DS_Store", "Thumbs.db", "__MACOSX/x", "._anna.ipynb", ".ipynb_checkpoints/anna.ipynb"]
    found = handed_in(tmp_path, **dict.fromkeys(rows + hidden, "{}"))
    assert list(found) == ["anna", "hw9_q3.safetensors", "list.csv", "scan.pdf"]
    blank = handed_in(tmp_path / "more", **{"boris/proofs.docx": "x"})["boris"][1]
    assert blank.unreadable and blank.notes == ["not read, only the notebook is: proofs.docx"]
    (tmp_path / "more/link").symlink_to(tmp_path / "more/boris")
    assert handed_in(tmp_path / "more")["link"][1].notes == []
    assert "scan.pdf: not a notebook: hw9.ipynb is expected" in found["scan.pdf"][1].unreadable


@pytest.mark.parametrize("theirs", [f"victim/{NOTEBOOK}", "victim.zip", "victim.ipynb.txt"])
@pytest.mark.parametrize("how", ["link", "hard link", "folder", "pipe"])
def test_what_lies_beside_a_submission_costs_it_nothing(tmp_path, theirs, how):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("secret")
    (tmp_path / "in").mkdir()
    beside = tmp_path / "in/victim.ipynb"
    make = {"link": beside.symlink_to, "hard link": beside.hardlink_to}
    if how in make:
        make[how](elsewhere)
    else:
        beside.mkdir() if how == "folder" else os.mkfifo(beside)
    content = zipped(**{NOTEBOOK: "{}"}) if theirs.endswith("zip") else "{}"
    found = handed_in(tmp_path / "in", **{theirs: content})
    assert list(found) == ["victim", "victim.ipynb"]
    assert found["victim"][1].notebook() == b"{}" and not found["victim"][0].notes
    reason = {"link": "a link", "hard link": "a hard link", "folder": "no notebook", "pipe": "not a plain"}
    assert reason[how] in found["victim.ipynb"][1].unreadable


def whole_course(how, files):
    """Return files in a whole course as it is handed in: as a folder, or as GitHub's archive."""
    course = {**COURSE, **files}
    archive = zipped(**{f"course-main/{name}": content for name, content in course.items()})
    wraps = {
        "clone": {f"anna/{name}": content for name, content in course.items()},
        "folder": {f"anna/course-main/{name}": content for name, content in course.items()},
        "zip": {"anna.zip": archive},
        "zip in a folder": {"anna/course-main.zip": archive},
    }
    return wraps[how]


@pytest.mark.parametrize("how", ["clone", "folder", "zip", "zip in a folder"])
def test_whole_course_that_is_handed_in_holds_one_notebook(tmp_path, how):
    at = "" if how == "clone" else "course-main/"
    copy = "homeworks/mine/HW9 (1).ipynb"
    taken = [{PLACE: ANSWERED}, {PLACE: ANSWERED, copy: BLANK}, {PLACE: ANSWERED, copy: ANSWERED}]
    taken += [{PLACE: ANSWERED, "Untitled.ipynb": BLANK}]
    for number, files in enumerate(taken):
        one = handed_in(tmp_path / str(number), **whole_course(how, files))["anna"][1]
        assert one.notebook() == ANSWERED.encode() and one.weights == {WEIGHTS: b"w"}, one.notes
        assert f"taken from the whole course, {at}{PLACE}: hand in hw9.ipynb alone" in one.notes[-1]
    one = handed_in(tmp_path / "beside", **whole_course(how, {PLACE: BLANK, copy: ANSWERED}))["anna"][1]
    assert one.notebook() == ANSWERED.encode() and not one.weights
    files = {PLACE: BLANK, "mine.ipynb": ANSWERED}
    blank = handed_in(tmp_path / "blank", **whole_course(how, files))["anna"][1]
    assert blank.notebook() == BLANK.encode() and blank.others == {f"{at}mine.ipynb": ANSWERED.encode()}
    for number, other in enumerate([ANSWERED + " ", "no notebook"]):
        files = whole_course(how, {PLACE: ANSWERED, copy: other})
        two = handed_in(tmp_path / f"two{number}", **files)["anna"][1].unreadable
        assert "2 notebooks with answers" in two and f"{at}{PLACE}" in two and f"{at}{copy}" in two


def test_whole_course_beside_a_blank_notebook_is_looked_at(tmp_path):
    archive = zipped(**{NOTEBOOK: BLANK, f"course-main/{PLACE}": ANSWERED})
    one = handed_in(tmp_path, **{"anna.zip": archive})["anna"][1]
    assert one.notebook() == BLANK.encode() and one.others == {f"course-main/{PLACE}": ANSWERED.encode()}


def test_links_in_an_archive_or_a_folder_are_not_followed(tmp_path):
    link = zipfile.ZipInfo(NOTEBOOK)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "in/boris").mkdir(parents=True)
    (tmp_path / "in/boris" / WEIGHTS).symlink_to("/etc/passwd")
    (tmp_path / "in/boris/more").symlink_to("/etc")
    found = handed_in(tmp_path / "in", **{"anna.zip": raw.getvalue(), f"boris/{NOTEBOOK}": "{}"})
    assert "a link, not a file" in found["anna"][1].unreadable
    assert found["boris"][1].weights == {} and "a link" in found["boris"][1].notes[0]


def test_names_that_look_alike_are_two_visible_names(tmp_path):
    names = ["anna", "anna\u200b", " anna", "anna ", "an\u202ena", "\u0430nna", "\uff41nna", "anna\u3164"]
    names += ["Ren\u00e9", "Rene\u0301", "Anna", "a  b", "a b", "x\\u200b", "x\u200b", "Анна", "Мария Lee"]
    found = handed_in(tmp_path, **{f"{name}.ipynb": "{}" for name in names})
    assert len(found) == len(names)
    shown = dict(zip(names, collect.visible_names(names), strict=True))
    assert set(shown.values()) == set(found)
    assert shown["anna\u200b"] == r"anna\u200b" and shown["anna "] == r"anna\u0020"
    assert shown["\u0430nna"] == r"\u0430nna" and shown["Rene\u0301"] == r"Rene\u0301"
    assert shown["x\\u200b"] == r"x\u005cu200b" and shown["x\u200b"] == r"x\u200b"
    assert all(shown[name] == name for name in ("anna", "Anna", "Ren\u00e9", "Анна", "Мария Lee", "a b"))
    assert found["Anna"][0].notes == found["anna"][0].notes == ("names that are almost alike: Anna, anna",)
    assert collect.visible_names(["Rene\u0301"]) == ["Ren\u00e9"]  # alone, as a Mac writes it
    # One sign for another, and Korean letters, which are no combining marks: each as two names.
    assert collect.visible_names(["\u00c5", "\u212b"]) == ["\u00c5", r"\u212b"]
    assert collect.visible_names(["\uac00", "\u1100\u1161"]) == ["\uac00", "\u1100" r"\u1161"]
    (long,) = collect.visible_names(["я" * 120])
    assert len(long.encode()) < 200 and "~" in long


@pytest.mark.parametrize("later", ["before", "after", "alone"])
def test_no_name_that_was_shown_before_moves(tmp_path, later):
    names = [
        "Rene\u0301",
        "\u1e69",
        "s\u0307\u0323",
        "s\u0323\u0307",
        "anna",
        "я" * 120,
        os.fsdecode(b"x\xff"),
    ]
    for first in names:
        (given,) = collect.visible_names([first])
        store.keep_names(tmp_path, {first: given})
        others = [unicodedata.normalize(form, first) for form in ("NFC", "NFD")] + [f"{given}_", given]
        others = [name for name in dict.fromkeys(others) if name != first]
        listed = {"before": [*others, first], "after": [first, *others], "alone": others}[later]
        shown = dict(zip(listed, collect.visible_names(listed, store.names(tmp_path)), strict=True))
        assert shown.pop(first, given) == given and given not in shown.values()
        assert len(set(shown.values())) == len(shown)


def test_name_of_a_student_is_never_given_to_what_lies_beside_another(tmp_path):
    files = {"anna.ipynb.ipynb": "{}", "anna.zip": zipped(**{NOTEBOOK: "{}"})}
    handed_in(tmp_path, **files)
    (tmp_path / "anna.ipynb").symlink_to(tmp_path / "anna.zip")
    found = collect.collect(tmp_path, {"anna.ipynb": "anna.ipynb", "anna": "anna"})
    assert {one.student: (one.path.name, one.name) for one in found} == {
        "anna": ("anna.zip", "anna"),
        "anna.ipynb": ("anna.ipynb.ipynb", "anna.ipynb"),
        "anna.ipynb_": ("anna.ipynb", ""),
    }
    (tmp_path / "anna.ipynb.ipynb").unlink()
    found = collect.collect(tmp_path, {"anna.ipynb": "anna.ipynb", "anna": "anna"})
    assert [(one.student, one.name) for one in found] == [("anna", "anna"), ("anna.ipynb_", "")]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "x", "b": "x"}', "\xff"])
def test_names_that_cannot_be_those_of_the_grader_are_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"names\.json does not hold .* put it back"):
        store.names(tmp_path)


def test_weights_of_another_question_are_not_taken_for_missing_ones(tmp_path):
    for name in (NOTEBOOK, "hw9_q2.safetensors"):
        (tmp_path / "anna").mkdir(exist_ok=True)
        (tmp_path / "anna" / name).write_text("{}")
    (one,) = collect.collect(tmp_path)
    files = collect.read(one, NOTEBOOK, [WEIGHTS, "hw9_q2.safetensors"], [])
    assert list(files.weights) == ["hw9_q2.safetensors"] and not files.notes


def test_names_that_are_no_text_become_one(tmp_path):
    (tmp_path / os.fsdecode(b"anna\xff.ipynb")).write_text("{}")
    (one,) = collect.collect(tmp_path)
    assert one.student == r"anna\udcff" and collect.read(one, NOTEBOOK, [], []).notebook() == b"{}"


def test_blank_notebook_beside_one_with_answers_is_said(tmp_path):
    files = {"hw9.ipynb": BLANK, "hw9 (1).ipynb": ANSWERED, "hw9 (2).ipynb": BLANK}
    read = handed_in(tmp_path, **{f"anna/{name}": text for name, text in files.items()})["anna"][1]
    graded = submission.rebuild(RELEASE, parse(read.notebook()))
    (note,) = collect.answers_elsewhere(RELEASE, graded, read)
    assert "blank, and hw9 (1).ipynb is not" in note
    graded = submission.rebuild(RELEASE, parse(files["hw9 (1).ipynb"].encode()))
    assert not collect.answers_elsewhere(RELEASE, graded, read)


def test_no_name_takes_the_one_that_another_student_has_in_the_tables():
    for victim, twin in (("0012", "'0012"), ("=a", "'=a"), ("a;b", "a,b")):
        (alone,) = marks.names_of(collect.visible_names([victim])).values()
        together = collect.visible_names(sorted([victim, twin]))
        assert marks.names_of(together)[collect.visible_names([victim])[0]] == alone
