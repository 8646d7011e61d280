"""Write what the teacher reads while presenting: `python -m tools.notes [NOTEBOOK ...]` is `make notes`.

A page of build/notes holds every slide of a seminar by its title, the notes that stand after it, and the
cells of code on it in their order, for a second window or for paper. Pandoc writes it, with
formulas as MathML: no network is needed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tools.notebooks import ROOT, NotebookError, find_notebooks, slide_type, source_of

NOTES = ROOT / "build" / "notes"
STYLE = """\
<style>
body { font: 18px/1.45 sans-serif; max-width: 48em; margin: 1em auto; padding: 0 1em; }
h2 { font-size: 1em; margin: 1em 0 0.2em; break-after: avoid; }
blockquote { margin: 0.3em 0; padding: 0.1em 1em; border-left: 5px solid #c60; background: #fff4e8;
  color: black; }
p, ul { margin: 0.3em 0; }
code { background: #eee; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #ccc; padding: 0.1em 0.6em; vertical-align: top; }
</style>
"""


def title_of(source: str) -> str:
    """Return the first heading of a slide, else its first line, in Markdown."""
    heading = re.search(r"^#+ (.+)", source, re.MULTILINE)
    return heading[1] if heading else source.strip().partition("\n")[0]


def first_line(source: str) -> str:
    """Return the line by which a cell of code is recognised: the first one that is not a comment."""
    lines = [line for line in source.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("#", "@"))), lines[0] if lines else "(empty)")


def notes(notebook: Path) -> str:
    """Return the notes of a notebook's slides in Markdown; the title is that of its first slide."""
    parts, slides = [], 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        kind, source = slide_type(cell), source_of(cell)
        if kind in ("slide", "subslide"):
            slides += 1
            title = "(code)" if cell["cell_type"] == "code" else title_of(source)
            parts.append(f"## {slides} · {title}")
        if kind == "notes":
            parts.append("\n".join(f"> {line}" for line in source.splitlines()))
        elif cell["cell_type"] == "code" and kind not in ("skip", None):
            folded = " (folded)" if cell["metadata"].get("jupyter", {}).get("source_hidden") else ""
            parts.append(f"* run `{first_line(source)}`{folded}")
    return "\n\n".join(parts) + "\n"


def page(notebook: Path, out: Path = NOTES) -> Path:
    """Write the page of a notebook and return its path."""
    import pypandoc  # here, so that nothing else waits for it

    target = out / f"{notebook.stem}.html"
    out.mkdir(parents=True, exist_ok=True)
    (out / "style.html").write_text(STYLE, encoding="utf-8")
    title = f"Notes of {notebook.stem}"
    options = [
        "--standalone",
        "--mathml",
        f"--metadata=pagetitle:{title}",
        f"--include-in-header={out / 'style.html'}",
    ]
    pypandoc.convert_text(
        f"# {title}\n\n{notes(notebook)}",
        "html5",
        "gfm+tex_math_dollars",
        extra_args=options,
        outputfile=target,
    )
    return target


def main(arguments: list[str]) -> int:
    """Write the pages of the named notebooks or of all seminars; return 2 where a notebook is missing."""
    try:
        notebooks = find_notebooks(arguments or [ROOT / "seminars"])
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    for notebook in notebooks:
        print(f"notes: {page(notebook).as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
