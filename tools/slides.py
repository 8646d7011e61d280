"""Compile the lecture decks with Typst: `python -m tools.slides [lecture1 ...]`.

Each `lectures/lectureN/lectureN.typ` becomes `lectureN.pdf` for presenting, with reveal steps, and
`lectureN-handout.pdf`, one page a slide. The bytes depend on nothing but the repository and Typst's version:
fonts come from `lectures/fonts`, and no date is written. `theme.typ` makes the build fail when a slide
overflows or an equation is too wide; `margin_ink` finds whatever else sticks out.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import typst
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EDITIONS = {
    "slides": {},
    "handout": {"handout": "1"},
    "notes": {"notes": "1"},
    "draft": {"handout": "1", "draft": "1"},
}
COMMITTED = {"slides": "{}.pdf", "handout": "{}-handout.pdf"}
EMPTY_MARGIN = (20, 10)  # points at the sides, and above and below, where nothing may be printed


class SlideError(RuntimeError):
    """A deck that does not compile, with the words of the compiler."""


def decks(names: list[str] | None = None, root: Path = ROOT) -> list[Path]:
    """Return the sources of the named lectures, of all when none is named.

    Raises:
        FileNotFoundError: a name without a deck.
    """
    found = {path.stem: path for path in sorted((root / "lectures").glob("lecture*/lecture*.typ"))}
    for name in names or []:
        if name not in found:
            raise FileNotFoundError(f"no deck {name!r}; there is {', '.join(found) or 'none'}")
    return [found[name] for name in names or found]


def compile_deck(deck: Path, edition: str = "slides", **options: object) -> bytes | list[bytes]:
    """Compile one edition of a deck to PDF.

    Args:
        deck: the path of its source, two folders below the folder with fonts and theme.
        edition: `slides`, `handout`, `notes` (handout and speaker's notes), or `draft` (handout in which what
            does not fit is named in red instead of stopping the build).
        options: further arguments of `typst.compile`; `format="png", ppi=36` gives a list of pages.

    Raises:
        SlideError: the source is wrong, a slide overflows, a reference or a font is unknown.
    """
    return typeset(
        deck.stem, deck, deck.resolve().parents[1], SlideError, sys_inputs=EDITIONS[edition], **options
    )


def typeset(
    name: str, source: Path | bytes, lectures: Path, error: type[RuntimeError], **options: object
) -> bytes | list[bytes]:
    """Compile Typst to PDF with the fonts and files in `lectures` alone, and without a date.

    Raises `error` with the name and the compiler's words, also where Typst only warns: of an unknown font,
    say, with which the pages would look different on a machine that has it.
    """
    try:
        output, warnings = typst.compile_with_warnings(
            source,
            root=lectures,
            font_paths=[lectures / "fonts"],
            ignore_system_fonts=True,
            timestamp=0,
            **options,
        )
    except typst.TypstError as problem:
        raise error(f"{name}: {problem.diagnostic or problem.message}") from None
    if warnings:
        raise error(f"{name}: " + "\n".join(warning.diagnostic for warning in warnings))
    return output


def margin_ink(deck: Path) -> list[int]:
    """Return the handout's pages that print in `EMPTY_MARGIN`, the title page aside."""
    inked = []
    side, end = (points // 2 for points in EMPTY_MARGIN)  # at 36 pixels an inch, two points a pixel
    for number, page in enumerate(compile_deck(deck, "handout", format="png", ppi=36), start=1):
        pixels = np.asarray(Image.open(io.BytesIO(page)).convert("L"))
        inside = np.zeros(pixels.shape, dtype=bool)
        inside[end:-end, side:-side] = True
        if number > 1 and (pixels[~inside] < 250).any():
            inked.append(number)
    return inked


def problems(deck: Path) -> list[str]:
    """Return what is wrong with the committed PDFs of a deck: stale files, print at the edge of a page."""
    found = []
    for edition, pattern in COMMITTED.items():
        path = deck.with_name(pattern.format(deck.stem))
        if not path.exists():
            found.append(f"{path.name} is missing: run python -m tools.slides {deck.stem}")
        elif path.read_bytes() != compile_deck(deck, edition):
            found.append(f"{path.name} is older than its sources: run python -m tools.slides {deck.stem}")
    return found + [f"page {page} of the handout prints at the edge of the page" for page in margin_ink(deck)]


def draw_figures(deck: Path) -> None:
    """Run the `figures.py` beside a deck."""
    subprocess.run([sys.executable, "-m", "lectures.drawing", deck.stem], cwd=ROOT, check=True)


def write(deck: Path, edition: str, folder: Path) -> Path:
    """Compile one edition into `folder` and return the file."""
    path = folder / COMMITTED.get(edition, "{}-" + edition + ".pdf").format(deck.stem)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compile_deck(deck, edition))
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KiB")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Compile or check the decks; return 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tools.slides", description=__doc__.splitlines()[0])
    parser.add_argument(
        "lectures", nargs="*", metavar="lectureN", help="decks to build; all when none is named"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a committed PDF is not current"
    )
    parser.add_argument(
        "--figures", action="store_true", help="draw the figures anew first (about ten seconds a deck)"
    )
    parser.add_argument(
        "--notes", action="store_true", help="also write build/lectureN-notes.pdf for the speaker"
    )
    parser.add_argument(
        "--draft", action="store_true", help="only build/lectureN-draft.pdf, overflow named in red"
    )
    options = parser.parse_args(arguments)
    status = 0
    try:
        for deck in decks(options.lectures):
            if options.figures:
                draw_figures(deck)
            if options.check:
                found = problems(deck)
                print(
                    "\n".join(f"{deck.stem}: {problem}" for problem in found)
                    or f"{deck.stem}: current, nothing overflows"
                )
                status |= bool(found)
                continue
            if options.draft:
                write(deck, "draft", ROOT / "build")
                continue
            for edition in COMMITTED:
                write(deck, edition, deck.parent)
            if options.notes:
                write(deck, "notes", ROOT / "build")
    except (SlideError, FileNotFoundError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
