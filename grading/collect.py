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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath

from grading.submission import Rebuilt, rebuild
from tools.handed_in import Cell, Unreadable, parse

FILE_LIMIT = 20_000_000  # bytes of a notebook, and of a file of weights
ARCHIVE_LIMIT = 3 * FILE_LIMIT  # bytes of a zip: a notebook and two files of weights
ENTRIES_LIMIT = 1_000  # files in an archive; notebooks, weights and archives in a folder
RATIO_LIMIT = 500  # times that a file in an archive may grow, beyond SMALL; text grows by 20
SMALL = 2_000_000  # bytes: a notebook that printed one line for ever
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

Found = dict[str, Callable[[], bytes]]  # a student's files: by name with its folder, how each is read


@dataclass(frozen=True)
class Submission:
    """Say where one student's files are: a notebook, an archive or a folder, and what was odd about it.

    `beside` is a folder that may hold weights and no notebook.
    """

    student: str
    path: Path
    beside: Path | None = None
    notes: tuple[str, ...] = ()


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


def collect(folder: Path) -> list[Submission]:
    """List the submissions in a folder, sorted: every file and folder in it is one, or is named in a note.

    A submission is `STUDENT.ipynb`, an archive `STUDENT.zip`, or a folder `STUDENT`. Where one student has
    several, the folder with a notebook counts, then the notebook, then the archive. A link, or whatever else
    is no plain file, has a row of its own beside them. Hidden files are passed over.
    """
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not _passed_over(path.name):
            groups.setdefault(_student(path), []).append(path)
    rows, apart = [], []
    for student, paths in groups.items():
        first, *rest = sorted(paths, key=lambda path: (_rank(path), path.name))
        rows.append((student, first, [path for path in rest if _plain(path)]))
        apart += [(path.name, path, []) for path in rest if not _plain(path)]
    rows += apart  # behind: where names are equal, a student's own file keeps the name
    names = visible_names([student for student, _, _ in rows])
    found = [_submission(name, path, rest) for name, (_, path, rest) in zip(names, rows, strict=True)]
    return sorted(_with_namesakes_noted(found), key=lambda one: one.student)


def read(one: Submission, notebook: str, weights: list[str]) -> Files:
    """Read a submission's notebook, which should be called `notebook`, and the weights of these file names.

    Nothing is raised: what was odd, and why something cannot be read, stands in what is returned.
    """
    files, found, folder = Files(), {}, ""
    try:
        found = _listed(one.path, notebook, files.notes)
        chosen, others = _chosen(found, notebook, files.notes)
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
        if _answered(_rebuilt(release, raw))
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


def visible_names(names: list[str]) -> list[str]:
    r"""Return students' names of which no two look alike: what cannot be seen is written as `\u200b`."""
    composed = [unicodedata.normalize("NFC", name) for name in names]
    shown, taken = [], set()
    for name, short in zip(names, composed, strict=True):
        alone = composed.count(short) == 1 or name == short
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
    return Submission(student, path, beside, tuple(notes))


def _with_namesakes_noted(found: list[Submission]) -> list[Submission]:
    """Return submissions with a note where names differ in case or in the number of a download only."""
    alike: dict[str, list[str]] = {}
    for one in found:
        alike.setdefault(re.sub(r" ?\(\d+\)$", "", one.student).casefold(), []).append(one.student)
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
        if len(archives) == 1 and not any(NOTEBOOK.fullmatch(name) for name in found):
            notes.append(f"the notebook was taken from {archives[0]}")
            return found | _in_archive(archives[0], found[archives[0]]())
        notes += [f"not opened: {', '.join(archives)}"] if archives else []
        return found
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


def _in_folder(path: Path) -> Found:
    """Return the readers of the files that matter in a folder and one folder deeper. Raises Unreadable."""
    found: Found = {}
    try:
        for entry in sorted(path.iterdir()):
            inner = sorted(entry.iterdir()) if _is_folder(entry) and not _passed_over(entry.name) else [entry]
            for file in inner:
                if not _passed_over(file.name) and MATTERS.fullmatch(file.name) and not _is_folder(file):
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
    """Return the readers of an archive's files, at its top or one folder deeper. Raises Unreadable."""
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
        if not folder and 1 <= len(parts) <= 2 and not any(map(_passed_over, parts)):
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


def _chosen(found: Found, notebook: str, notes: list[str]) -> tuple[str, list[str]]:
    """Return the name of the notebook to grade, and those of the others. Raises Unreadable."""
    notebooks = [name for name in found if NOTEBOOK.fullmatch(name)]
    exact = [name for name in notebooks if PurePosixPath(name).name == notebook]
    at_the_top = [name for name in exact if "/" not in name]
    copies = [name for name in notebooks if _copy_of(name, notebook)]
    candidates = at_the_top or exact or copies or notebooks
    if not candidates:
        wrong = [_refusal(name, notebook) for name in found if REFUSED.fullmatch(name)]
        where = "at the top or one folder deeper"
        raise Unreadable("; ".join([f"no notebook: {notebook} is expected {where}", *wrong[:OTHERS_LIMIT]]))
    if len(candidates) > 1:
        names = ", ".join(candidates[:OTHERS_LIMIT])
        raise Unreadable(f"{len(candidates)} notebooks, none called {notebook} at the top: {names}")
    folder, _, name = candidates[0].rpartition("/")
    others = [other for other in notebooks if other != candidates[0]]
    if name != notebook:
        notes.append(f"the notebook is called {name}, not {notebook}")
    if folder:
        notes.append(f"the notebook was found one folder deeper, in {folder}")
    if others:
        notes.append(f"other notebooks were not graded: {', '.join(others)}")
    return candidates[0], others


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


def _rebuilt(release: list[Cell], raw: bytes) -> Rebuilt:
    try:
        return rebuild(release, parse(raw))
    except Unreadable:
        return Rebuilt()


def _answered(rebuilt: Rebuilt) -> bool:
    return "answered" in rebuilt.states.values()


def _visible(name: str, marks: bool) -> str:
    """Return a name in which every character can be seen; `marks` shows combining characters too."""
    return "".join(
        f"\\u{ord(character):04x}" if _is_odd(name, position, marks) else character
        for position, character in enumerate(name)
    )


def _is_odd(name: str, position: int, marks: bool) -> bool:
    """Tell whether a character of a name could be overlooked, or be taken for another one."""
    character = name[position]
    if character == " ":
        return position in (0, len(name) - 1) or name[position - 1] == " "
    return (
        character in IGNORABLE
        or character == "\\"  # so that nobody is called what another name is shown as
        or character == ";"  # which tables replace,
        or (character == "'" and position == 0)  # and this they put in front of names that are numbers
        or unicodedata.category(character)[0] in "CZ"
        or (marks and unicodedata.combining(character) > 0)
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
