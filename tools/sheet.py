"""Print the theory homeworks: `python -m tools.sheet [homework2 ...]`.

A sheet `homeworks/homeworkN/hwN.pdf` holds the task texts of the student version `hwN.ipynb`, formulas
included, for reading and printing; answer cells, hints, code and what only makes sense beside a running
notebook are left out. A homework has a sheet if that file exists: naming a homework makes its first one.
Pandoc turns Markdown into Typst, `lectures/sheet.typ` gives it the look of the course. The bytes depend on
nothing but the repository and the versions of the two.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pypandoc

from tools.notebooks import ROOT, read_notebook
from tools.slides import typeset

HEAD = re.compile(r"\A# (?P<title>[^\n]+)\n+\*(?P<course>[^\n*]+)\* · (?P<facts>[^\n]+)\n")
FOLDED = re.compile(r"<details>.*?</details>\n*", re.DOTALL)
LEFT_OUT = re.compile(r"#+ (Look|Hand in)\b")  # cells that speak about the notebook itself


class SheetError(RuntimeError):
    """A sheet that cannot be made, with the homework's name and the reason."""


def notebooks(names: list[str] | None = None, root: Path = ROOT) -> list[Path]:
    """Return the student versions of the named homeworks, of all that have a sheet when none is named.

    Raises:
        FileNotFoundError: a name without a notebook.
    """
    folders = {
        path.parent.name: path
        for path in sorted((root / "homeworks").glob("homework*/hw*.ipynb"))
        if ".solution" not in path.name
    }
    for name in names or []:
        if name not in folders:
            raise FileNotFoundError(f"no homework {name!r}; there is {', '.join(folders) or 'none'}")
    return [folders[name] for name in names or folders if names or folders[name].with_suffix(".pdf").exists()]


def task_text(notebook: Path) -> str:
    """Return the Markdown that is printed."""
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "markdown"]
    texts = [cell.source for cell in cells if not cell.metadata.get("nbgrader", {}).get("solution")]
    return "\n\n".join(FOLDED.sub("", text).strip() for text in texts if not LEFT_OUT.match(text)) + "\n"


def typst_source(notebook: Path) -> str:
    """Return the sheet as a Typst document.

    Raises:
        SheetError: the first cell is not a title and a line of facts, or HTML is left that cannot be printed.
    """
    text = task_text(notebook)
    head = HEAD.match(text)
    if head is None:
        raise SheetError(f"{notebook.name}: expected '# title' and '*course* · points · dates' at the top")
    body = text[head.end() :]
    if html := re.search(r"<[a-z/][^>\n]*>", re.sub(r"`[^`\n]*`|\$[^$]*\$", "", body)):
        raise SheetError(f"{notebook.name}: {html[0]} cannot be printed")
    words = dict(
        head.groupdict(), where=f"Answers go into the notebook {notebook.name}, where the hints are, too."
    )
    arguments = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in words.items())
    converted = pypandoc.convert_text(
        body, "typst", format="gfm-gfm_auto_identifiers", extra_args=["--wrap=preserve"]
    )
    return f'#import "sheet.typ": sheet\n#show: sheet.with({arguments})\n\n' + converted


def compile_sheet(notebook: Path, **options: object) -> bytes | list[bytes]:
    """Compile the sheet of a student version to PDF.

    Args:
        notebook: its path; fonts and look come from the folder `lectures` two folders above.
        options: further arguments of `typst.compile`; `format="png", ppi=60` gives a list of pages.

    Raises:
        SheetError: the text cannot be converted, or Typst warns, of an unknown font, say.
    """
    lectures = notebook.resolve().parents[2] / "lectures"
    return typeset(notebook.name, typst_source(notebook).encode(), lectures, SheetError, **options)


def main(arguments: list[str] | None = None) -> int:
    """Print or check the sheets; return 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tools.sheet", description=__doc__.splitlines()[0])
    parser.add_argument(
        "homeworks", nargs="*", metavar="homeworkN", help="all with a sheet when none is named"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a sheet is not current"
    )
    options = parser.parse_args(arguments)
    status = 0
    try:
        for notebook in notebooks(options.homeworks):
            path, pdf = notebook.with_suffix(".pdf"), compile_sheet(notebook)
            if path.exists() and path.read_bytes() == pdf:
                continue
            if options.check:
                print(f"{path.name} is older than its notebook: run python -m tools.sheet {path.parent.name}")
                status = 1
            else:
                path.write_bytes(pdf)
                print(f"{path.relative_to(ROOT)}  {len(pdf) / 1024:.0f} KiB")
    except (SheetError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
