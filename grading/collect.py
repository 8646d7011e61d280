"""Find what was handed in: a submission for every file and folder, and the bytes of its notebook and weights.

Nothing is written, unpacked to a disk or run, no link is followed, and every reading has a limit. What is
taken although it is not quite what was asked for (an archive, a copy's name) becomes a note; what cannot be
taken becomes a reason.
"""

import contextlib
import functools
import io
import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from grading.submission import Rebuilt, rebuild
from tools.handed_in import Cell, Unreadable, parse

FILE_LIMIT = 20_000_000  # bytes of a notebook, and of a file of weights
ARCHIVE_LIMIT = 200_000_000  # bytes of a zip: the whole course with its history has 120 million
ENTRIES_LIMIT = 5_000  # files in an archive; notebooks, weights and archives in a folder
RATIO_LIMIT = 500  # times that a file in an archive may grow, beyond SMALL; text grows by 20
SMALL = 2_000_000  # bytes: a notebook that printed one line for ever
NEAR, DEEPEST = 2, 5  # parts of a file's path: where work is looked for, and where if it is the whole course
COPIES_LIMIT = 10  # notebooks of the homework's name in a whole course
OTHERS_LIMIT = 3  # further notebooks that are looked at, only to say that they hold answers
NAME_LIMIT = 180  # bytes of a student's name, which becomes a folder's

NOTEBOOK = re.compile(r"(?i)(?P<stem>.+)\.ipynb(?:\.txt|\.json)?")  # mail and browsers add the second suffix
ARCHIVE = re.compile(r"(?i)(?P<stem>.+)\.zip")
REFUSED = re.compile(r"(?i)(?P<stem>.+?)(?P<suffix>\.py|\.rar|\.7z|\.t[gbx]z|\.tar(?:\.\w+)?)")
MATTERS = re.compile(r"(?i).+\.(?:ipynb(?:\.txt|\.json)?|zip|safetensors|py|rar|7z|tar|tgz|gz|xz|bz2)")
DOCUMENT = re.compile(r"(?i).+\.(?:pdf|docx?|odt|rtf|tex|md|html?|jpe?g|png|heic|webp|py)")
COPY = re.compile(r"(?:[ _-]?\(\d+\)|[ _-]?[Cc]opy(?:[ _-]?\d+)?|-\d)+$")  # `hw1 (1)`, `hw1-Copy1`
PASSED_OVER = {"__macosx", "thumbs.db", "desktop.ini"}  # written by systems, beside all hidden files

IGNORABLE = set("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | set(map(chr, range(0xFE00, 0xFE10)))
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")  # whose letters look alike

NOBODY: Mapping[str, str] = MappingProxyType({})  # the names that a first run finds given
Found = dict[str, Callable[[], bytes]]  # a student's files: by name with its folder, how each is read


@dataclass(frozen=True)
class Submission:
    """Say where one student's files are: a notebook, an archive or a folder, and what was odd about it.

    `beside` is a folder that may hold weights and no notebook. `student` is what is shown of `name`, the
    student's name as it was handed in; what only lies beside a student's files has none.
    """

    student: str
    path: Path
    beside: Path | None = None
    notes: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Files:
    """What a submission's files hold: a notebook or why it cannot be read, weights by file name, notes.

    `others` are notebooks that are not graded.
    """

    raw: bytes = b""
    unreadable: str = ""
    weights: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: dict[str, bytes] = field(default_factory=dict)

    def notebook(self) -> bytes:
        """Return the notebook's bytes. Raises Unreadable with the reason."""
        if self.unreadable:
            raise Unreadable(self.unreadable)
        return self.raw


def collect(folder: Path, given: Mapping[str, str] = NOBODY) -> list[Submission]:
    """List the submissions in a folder, sorted: every file and folder in it is one, or is named in a note.

    `given` says what students were shown as in earlier runs, by their names as they were handed in.

    A submission is `STUDENT.ipynb`, an archive `STUDENT.zip`, or a folder `STUDENT`. Where one student has
    several, the folder with a notebook counts, then the notebook, then the archive. A link, or whatever else
    is no plain file, has a row of its own beside them. Hidden files are passed over.
    """
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not _passed_over(path.name):
            groups.setdefault(_student(path), []).append(path)
    own, apart = [], []
    for student, paths in groups.items():
        first, *rest = sorted(paths, key=lambda path: (_rank(path), path.name))
        own.append(_submission(student, first, [path for path in rest if _plain(path)]))
        apart += [Submission(path.name, path) for path in rest if not _plain(path)]
    names = visible_names([one.name for one in own], given)
    # No name has a slash: what lies apart is called like nobody, who handed in nothing this time included.
    taken = given | {one.name: name for one, name in zip(own, names, strict=True)}
    names += visible_names(
        [one.student for one in apart], {f"{name}/": shown for name, shown in taken.items()}
    )
    found = [replace(one, student=name) for one, name in zip(own + apart, names, strict=True)]
    return sorted(_with_namesakes_noted(found, given.values()), key=lambda one: one.student)


def read(one: Submission, notebook: str, weights: list[str], release: list[Cell]) -> Files:
    """Read a submission's notebook, which should be called `notebook`, and the weights of these file names.

    `release` is our student version, by which answers are told from our blank in a copy of the whole course.
    Nothing is raised: what was odd, and why something cannot be read, stands in what is returned.
    """
    files, found, folder = Files(), {}, ""
    try:
        found = _listed(one.path, notebook, files.notes)
        chosen, others = _chosen(found, notebook, release, files.notes)
        folder = chosen.rpartition("/")[0]
        files = replace(files, raw=found[chosen]())
        for name in others[:OTHERS_LIMIT]:
            with contextlib.suppress(Unreadable):
                files.others[name] = found[name]()
    except Unreadable as reason:
        files = replace(files, unreadable=str(reason))
    if beside := _documents(one.path, folder, found):
        more = f" and {len(beside) - OTHERS_LIMIT} more" if len(beside) > OTHERS_LIMIT else ""
        files.notes.append(f"not read, only the notebook is: {', '.join(beside[:OTHERS_LIMIT])}{more}")
    if one.beside:
        with contextlib.suppress(Unreadable):
            found = _in_folder(one.beside) | found
    found = {name: file for name, file in found.items() if _near(name) or name.rpartition("/")[0] == folder}
    for name in weights:
        try:
            if source := _weights(found, name, weights, folder, files.notes):
                files.weights[name] = found[source]()
        except Unreadable as reason:
            files.notes.append(str(reason))
    return files


def answers_elsewhere(release: list[Cell], graded: Rebuilt, files: Files) -> list[str]:
    """Return notes on notebooks that hold answers and were not graded, if the graded one holds none."""
    if _answered(graded):
        return []
    return [
        f"the notebook that was graded is blank, and {name} is not: hand in one notebook"
        for name, raw in files.others.items()
        if _has_answers(release, raw)
    ]


def read_file(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """Return the bytes of a plain file within the limit; no link is followed. Raises Unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "a link, not a file" if os.path.islink(path) else error.strerror
        raise Unreadable(f"{path.name}: {reason}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{path.name}: not a plain file")
        if status.st_nlink > 1:  # another name of a file that may be somebody else's
            raise Unreadable(f"{path.name}: a hard link to another file, not a file of its own: copy it")
        if status.st_size > limit:
            advice = ": clear its outputs" if NOTEBOOK.fullmatch(path.name) else ""
            raise Unreadable(f"{path.name}: {status.st_size:,} bytes, at most {limit:,} are read{advice}")
        return file.read(limit + 1)[:limit]


def visible_names(names: list[str], given: Mapping[str, str] = NOBODY) -> list[str]:
    r"""Return students' names of which no two look alike: what cannot be seen is written as `\u200b`.

    Who was shown under a name before, as `given` says, keeps it; the first one, where two are equal.
    """
    kept, taken = dict(given), set(given.values())
    looks = Counter(unicodedata.normalize("NFC", name) for name in set(names))
    shown = []
    for name in names:
        if name in kept:
            shown.append(kept.pop(name))
            continue
        short = unicodedata.normalize("NFC", name)
        alone = looks[short] == 1 or name == short
        visible = _visible(short if alone else name, marks=not alone)
        if len(visible.encode()) > NAME_LIMIT:
            digest = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
            visible = visible.encode()[:NAME_LIMIT].decode(errors="ignore") + f"~{digest}"
        while visible in taken:
            visible += "_"
        taken.add(visible)
        shown.append(visible)
    return shown


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.casefold() in PASSED_OVER


def _plain(path: Path) -> bool:
    """Tell whether a path is a folder, or a file of its own: no link, no device."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _student(path: Path) -> str:
    known = (pattern.fullmatch(path.name) for pattern in (NOTEBOOK, ARCHIVE, REFUSED))
    match = None if _is_folder(path) else next(filter(None, known), None)
    return match["stem"] if match else path.name


def _rank(path: Path) -> int:
    """Tell which of one student's files counts: that with the lowest rank."""
    if not _plain(path):
        return 5
    if _is_folder(path):
        with contextlib.suppress(Unreadable):
            names = _in_folder(path)
            return 0 if any(NOTEBOOK.fullmatch(name) or ARCHIVE.fullmatch(name) for name in names) else 3
        return 3
    if NOTEBOOK.fullmatch(path.name):
        return 1
    return 2 if ARCHIVE.fullmatch(path.name) else 4


def _submission(student: str, path: Path, rest: list[Path]) -> Submission:
    beside = next((other for other in rest if _is_folder(other)), None)
    notes = [f"{other.name} was not graded: {path.name} was" for other in rest if other != beside]
    return Submission(student, path, beside, tuple(notes), student)


def _with_namesakes_noted(found: list[Submission], given: Iterable[str]) -> list[Submission]:
    """Return submissions with a note where names differ in case, in a download's number or in a `_` only."""
    alike: dict[str, list[str]] = {}
    for student in sorted({*given, *(one.student for one in found)}):
        alike.setdefault(re.sub(r"(?: ?\(\d+\))?_*$", "", student).casefold(), []).append(student)
    namesakes = {student: group for group in alike.values() if len(group) > 1 for student in group}
    return [
        replace(one, notes=(*one.notes, f"names that are almost alike: {', '.join(namesakes[one.student])}"))
        if one.student in namesakes
        else one
        for one in found
    ]


def _listed(path: Path, notebook: str, notes: list[str]) -> Found:
    """Return the files of a submission. Raises Unreadable."""
    if _is_folder(path):
        found = _in_folder(path)
        archives = [name for name in found if ARCHIVE.fullmatch(name)]
        notebooks = any(NOTEBOOK.fullmatch(name) for name in found)
        if len(archives) == 1 and not notebooks:
            notes.append(f"the notebook was taken from {archives[0]}")
            return found | _in_archive(archives[0], found[archives[0]]())
        notes += [f"not opened: {', '.join(archives)}"] if archives else []
        near = any(_copy_of(name, notebook) for name in found)
        return found if near else _in_folder(path, DEEPEST)
    if ARCHIVE.fullmatch(path.name):
        notes.append(f"the notebook was taken from {path.name}")
        return _in_archive(path.name, read_file(path, ARCHIVE_LIMIT))
    if NOTEBOOK.fullmatch(path.name):
        if not path.name.endswith(".ipynb"):
            notes.append(f"{path.name} was read as a notebook: call it {notebook}")
        return {notebook: functools.partial(read_file, path)}
    if not _plain(path):
        read_file(path)  # says why
    raise Unreadable(_refusal(path.name, notebook))


def _refusal(name: str, notebook: str) -> str:
    match = REFUSED.fullmatch(name)
    if match and match["suffix"].lower() == ".py":
        return f"{name}: a .py file: hand in the notebook, {notebook}"
    if match:
        return f"{name}: a {match['suffix']} archive is not opened: hand in {notebook}, or a .zip"
    return f"{name}: not a notebook: {notebook} is expected"


def _near(name: str) -> bool:
    return name.count("/") < NEAR


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Yield what is in a folder and is no folder, and so on to a depth; no link is followed."""
    for entry in sorted(folder.iterdir()):
        if _is_folder(entry):
            if depth > 1 and not _passed_over(entry.name):
                yield from _files(entry, depth - 1)
        elif not _passed_over(entry.name):
            yield entry


def _in_folder(path: Path, depth: int = NEAR) -> Found:
    """Return the readers of the files that matter in a folder, to a depth. Raises Unreadable."""
    found: Found = {}
    try:
        for file in _files(path, depth):
            if MATTERS.fullmatch(file.name):
                limit = ARCHIVE_LIMIT if ARCHIVE.fullmatch(file.name) else FILE_LIMIT
                found[file.relative_to(path).as_posix()] = functools.partial(read_file, file, limit)
    except OSError as error:
        raise Unreadable(f"the folder cannot be read: {error.strerror}") from None
    if len(found) > ENTRIES_LIMIT:
        raise Unreadable(f"{len(found):,} notebooks and the like in a folder, at most {ENTRIES_LIMIT:,}")
    return found


def _documents(path: Path, folder: str, found: Found) -> list[str]:
    """Return the names of texts, pictures and modules beside a notebook: nobody reads them."""
    names = [name.rpartition("/")[2] for name in found if name.rpartition("/")[0] == folder]
    inside = path / folder
    if _is_folder(path) and _is_folder(inside):  # no link is followed, and an archive's folder is none here
        with contextlib.suppress(OSError):
            names += [file.name for file in inside.iterdir() if not _is_folder(file)]
    return sorted({name for name in names if DOCUMENT.fullmatch(name) and not _passed_over(name)})


def _in_archive(name: str, raw: bytes) -> Found:
    """Return the readers of an archive's files, but of the deepest. Raises Unreadable."""
    if raw.count(b"PK\x01\x02") > ENTRIES_LIMIT:  # counted before zipfile makes an object of each
        raise Unreadable(f"{name}: more than {ENTRIES_LIMIT:,} files in an archive")
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except Exception as error:  # zipfile raises all kinds, and one hand-in must not stop the batch
        raise Unreadable(f"{name}: a zip that cannot be opened ({error})") from None
    found: Found = {}
    for entry in archive.infolist():
        parts = [part for part in re.split(r"[/\\]", entry.filename) if part not in ("", ".", "..")]
        folder = entry.filename.endswith("/")  # `is_dir` fails where there is no name
        if not folder and 1 <= len(parts) <= DEEPEST and not any(map(_passed_over, parts)):
            found["/".join(parts)] = functools.partial(_unpacked, archive, entry)
    return found


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a file in an archive, whatever it says about its own size. Raises Unreadable."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Unreadable(f"{entry.filename}: a link, not a file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable(f"{entry.filename}: packed by a method that is not read: make an ordinary zip")
    try:
        with archive.open(entry) as file:
            data = file.read(FILE_LIMIT + 1)
    except Exception as error:  # as above
        raise Unreadable(f"{entry.filename}: cannot be unpacked ({error})") from None
    if len(data) > FILE_LIMIT:
        raise Unreadable(f"{entry.filename}: more than {FILE_LIMIT:,} bytes, which is all that are read")
    if len(data) > max(SMALL, RATIO_LIMIT * entry.compress_size):
        raise Unreadable(f"{entry.filename}: grows more than {RATIO_LIMIT} times when it is unpacked")
    return data


def _chosen(found: Found, notebook: str, release: list[Cell], notes: list[str]) -> tuple[str, list[str]]:
    """Return the name of the notebook to grade, and those of the others. Raises Unreadable."""
    notebooks = [name for name in found if NOTEBOOK.fullmatch(name) and _near(name)]
    exact = [name for name in notebooks if PurePosixPath(name).name == notebook]
    at_the_top = [name for name in exact if "/" not in name]
    copies = [name for name in notebooks if _copy_of(name, notebook)]
    far = [name for name in found if _copy_of(name, notebook) and not _near(name)]
    if far and not copies:
        return _chosen_in_course(far, found, notebook, release, notes), notebooks
    candidates = at_the_top or exact or copies or notebooks
    if not candidates:
        wrong = [_refusal(name, notebook) for name in found if REFUSED.fullmatch(name) and _near(name)]
        where = "at the top or one folder deeper"
        raise Unreadable("; ".join([f"no notebook: {notebook} is expected {where}", *wrong[:OTHERS_LIMIT]]))
    if len(candidates) > 1:
        names = ", ".join(candidates[:OTHERS_LIMIT])
        raise Unreadable(f"{len(candidates)} notebooks, none called {notebook} at the top: {names}")
    folder, _, name = candidates[0].rpartition("/")
    others = [other for other in notebooks + far if other != candidates[0]]
    if name != notebook:
        notes.append(f"the notebook is called {name}, not {notebook}")
    if folder:
        notes.append(f"the notebook was found one folder deeper, in {folder}")
    if others:
        notes.append(f"other notebooks were not graded: {', '.join(others)}")
    return candidates[0], others


def _chosen_in_course(
    copies: list[str], found: Found, notebook: str, release: list[Cell], notes: list[str]
) -> str:
    """Return which of the copies of a notebook, far down in a whole course, is not our blank.

    Raises Unreadable where several are not, and differ.
    """
    if len(copies) > COPIES_LIMIT:
        raise Unreadable(f"{len(copies)} notebooks called {notebook}, far down in folders: hand in one")
    different: dict[bytes, str] = {}
    for name in copies:
        different.setdefault(found[name](), name)
    theirs = [name for raw, name in different.items() if _has_answers(release, raw) is not False]
    if len(theirs) > 1:
        raise Unreadable(
            f"{len(theirs)} notebooks with answers, that differ: {', '.join(theirs)}: hand in one"
        )
    chosen = theirs[0] if theirs else copies[0]
    notes.append(f"the notebook was taken from the whole course, {chosen}: hand in {notebook} alone")
    return chosen


def _weights(found: Found, wanted: str, all_wanted: list[str], folder: str, notes: list[str]) -> str | None:
    """Return the name under which a file of weights was handed in, None if it was not."""
    exact = [name for name in found if PurePosixPath(name).name == wanted]
    if exact:
        return min(exact, key=lambda name: (name.rpartition("/")[0] != folder, name.count("/"), name))
    copies = [name for name in found if _copy_of(name, wanted)]
    if len(copies) == 1:
        notes.append(f"{copies[0]} was read as {wanted}")
        return copies[0]
    if copies:
        notes.append(f"none of {', '.join(copies)} was read: {wanted} is expected")
    else:
        known = [name for name in found if any(_copy_of(name, other) for other in all_wanted)]
        strange = [name for name in found if name.lower().endswith(".safetensors") and name not in known]
        notes += [f"{wanted} is missing; there is {', '.join(strange)}"] if strange else []
    return None


def _copy_of(name: str, wanted: str) -> bool:
    """Tell whether a name differs only in case, in what marks a copy, or in a suffix that mail adds."""
    path, match = PurePosixPath(name), NOTEBOOK.fullmatch(PurePosixPath(name).name)
    stem, suffix = (match["stem"], ".ipynb") if match else (path.stem, path.suffix)
    return (COPY.sub("", stem) + suffix).casefold() == wanted.casefold()


def _has_answers(release: list[Cell], raw: bytes) -> bool | None:
    """Tell whether a notebook holds more than our blank; None if it cannot be read."""
    try:
        return _answered(rebuild(release, parse(raw)))
    except Exception:  # Unreadable, or what nobody foresaw: one hand-in must not stop the batch
        return None


def _answered(rebuilt: Rebuilt) -> bool:
    return "answered" in rebuilt.states.values()


def _visible(name: str, marks: bool) -> str:
    """Return a name in which every character can be seen; `marks` shows what composing would change, too."""
    return "".join(
        f"\\u{ord(character):04x}" if _is_odd(name, position, marks) else character
        for position, character in enumerate(name)
    )


def _is_odd(name: str, position: int, marks: bool) -> bool:
    """Tell whether a character of a name could be overlooked, or be taken for another one."""
    character, pair = name[position], name[max(position - 1, 0) : position + 1]
    if character == " ":
        return position in (0, len(name) - 1) or name[position - 1] == " "
    return (
        character in IGNORABLE
        or character == "\\"  # so that nobody is called what another name is shown as
        or character == ";"  # which tables replace,
        or (character == "'" and position == 0)  # and this they put in front of names that are numbers
        or unicodedata.category(character)[0] in "CZ"
        or (marks and (unicodedata.combining(character) > 0 or unicodedata.normalize("NFC", pair) != pair))
        or (not character.isascii() and unicodedata.normalize("NFKC", character).isascii())
        or position in _foreign_letters(name)
    )


def _foreign_letters(name: str) -> set[int]:
    """Return where a word has letters of another alphabet than most of its letters."""
    foreign = set()
    for word in re.finditer(r"[^\W\d_]+", name):
        alphabets = [unicodedata.name(letter, "").partition(" ")[0] for letter in word[0]]
        main = max(SCRIPTS, key=alphabets.count)
        mixed = [i for i, alphabet in enumerate(alphabets) if alphabet in SCRIPTS and alphabet != main]
        foreign.update(word.start() + i for i in mixed)
    return foreign
