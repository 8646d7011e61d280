"""Write the course as a static site to build/site: `make site`.

The pages are gathered in build/site-source, as everybody may read them: what instructors have more is left
out, and a link to a file of the repository becomes a link to its page, to its copy, or to the repository.
Then Sphinx lays them out as `docs/conf.py` says, and any warning fails. Nothing of it needs a network.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode

from tools import course, places
from tools.editions import STUDENTS_NOTE, public_notebook, public_text
from tools.notebooks import (
    ROOT,
    STUDENT_VERSION,
    NotebookError,
    find_notebooks,
    read_notebook,
    text_of,
    write_atomically,
)
from tools.sliders import FOLDER as FRAMES
from tools.sliders import twin

SOURCE, SITE = ROOT / "build" / "site-source", ROOT / "build" / "site"
ON_GITHUB = "https://github.com/{owner}/{repository}/blob/{branch}/".format(**course.home())

# Pages of the repository that the site has, and what they are called there.
PAGES = {
    "README.md": "index.md",
    "docs/students.md": "docs/students.md",
    "docs/find-your-way.md": "docs/find-your-way.md",
    "docs/notation.md": "docs/notation.md",
    "POLICY.md": "POLICY.md",
    "results/README.md": "results/index.md",
    "ERRATA.md": "ERRATA.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
LICENCES = {"LICENSE": "Code", "LICENSE-CONTENT": "Text, slides and figures", "NOTICE": "Material of others"}
LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
BADGE = re.compile(r"\[!\[([^\]]*)\]\([^)]*\)\]\(([^)]*)\)")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
FORM = re.compile(r"# @title (.*?)(?: *\{.*\})?\n")


class SiteError(Exception):
    """The site cannot be written; the message says why and what to do."""


# ---------------------------------------------------------------------------------------- what goes where
def notebooks() -> list[str]:
    """List the notebooks that everybody reads, seminars first."""
    found = [path.relative_to(ROOT).as_posix() for path in find_notebooks()]
    public = [
        path for path in found if path.startswith("seminars/") or STUDENT_VERSION.fullmatch(Path(path).name)
    ]
    return sorted(public, key=lambda path: (path.startswith("homeworks/"), int(re.search(r"\d+", path)[0])))


def decks() -> list[str]:
    """List the decks of the lectures, in order."""
    numbers = range(1, len(course.plan()["lecture"]) + 1)
    paths = [f"lectures/lecture{number}/lecture{number}.pdf" for number in numbers]
    return [path for path in paths if (ROOT / path).exists()]


def page_map() -> dict[str, str]:
    """Return the page of the site, a path below SOURCE, of every file of the repository that has one."""
    pages = PAGES | {path: path for path in notebooks()}
    pages |= {path: path.removesuffix("pdf") + "md" for path in decks()}
    return pages | dict.fromkeys(LICENCES, "licences.md")


# --------------------------------------------------------------------------------------------------- links
def linked(text: str, path: str, pages: dict[str, str]) -> str:
    """Return Markdown with the links of the file at `path` as they are on the site.

    Raises:
        SiteError: a link points at a file that does not exist.
    """
    here = posixpath.dirname(pages[path])

    def link(found: re.Match) -> str:
        target, _, anchor = found["target"].partition("#")
        if target.startswith(ON_GITHUB):
            file = target.removeprefix(ON_GITHUB)
        elif not target or ":" in target:
            return found[0]
        else:
            file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if file.endswith(".ipynb"):  # from the anchor that Jupyter makes of a heading to the page's own
            anchor = places.slug(unquote(anchor))
        anchor = f"#{anchor}" if anchor else ""
        if file in pages:
            return f"[{found['text']}]({posixpath.relpath(pages[file], here)}{anchor})"
        if not (ROOT / file).exists():
            raise SiteError(f"{path} links to {target}, and there is no file {file}: mend the link")
        if file.endswith(".pdf"):
            return f'<a href="{posixpath.relpath(file, here)}{anchor}">{found["text"]}</a>'
        return f"[{found['text']}]({ON_GITHUB}{file}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def without_badges(text: str) -> str:
    """Return Markdown with badges, which are pictures from other servers, as links of words."""
    words = {"Open in GitHub": "read"}
    return BADGE.sub(lambda found: f"[{words.get(found[1], found[1])}]({found[2]})", text)


# -------------------------------------------------------------------------------------------------- gathering
def markdown_page(path: str, pages: dict[str, str]) -> str:
    """Return a page of the repository as the site has it."""
    text = public_text((ROOT / path).read_text(encoding="utf-8")).replace(STUDENTS_NOTE, "")
    return linked(without_badges(text), path, pages)


def notebook_page(path: str, pages: dict[str, str]) -> NotebookNode:
    """Return a notebook as the site shows it: links, sliders, folded code, words of pictures."""
    notebook, shown = public_notebook(read_notebook(ROOT / path)), []
    if seminar := re.match(r"seminars/seminar(\d+)/", path):
        notebook = twin(notebook, int(seminar[1]))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(without_badges(cell.source), path, pages)
            shown.append(cell)
        else:
            cell.metadata.mystnb = {}
            if prompt := folded(cell):
                cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]
                cell.metadata.mystnb |= {"code_prompt_show": prompt, "code_prompt_hide": prompt}
            shown += described(cell)
    return NotebookNode(notebook | {"cells": shown})


def described(cell: NotebookNode) -> list[NotebookNode]:
    """Return a cell with its pictures' words where Sphinx reads them: one picture a cell, or it is cut."""
    pieces, outputs = [cell], cell.outputs
    cell.outputs = []
    for output in outputs:
        alt = next((kind["alt"] for kind in output.get("metadata", {}).values() if "alt" in kind), None)
        if alt and "image" in pieces[-1].metadata.mystnb:
            metadata = NotebookNode(tags=["remove-input"], mystnb={})
            pieces.append(
                NotebookNode(cell | {"id": f"{cell.id}-{len(pieces)}", "outputs": [], "metadata": metadata})
            )
        if alt:
            pieces[-1].metadata.mystnb["image"] = {"alt": alt}
        pieces[-1].outputs.append(output)
    return pieces


def folded(cell: NotebookNode) -> str | None:
    """Return the line that stands for the code of a cell that is folded in class or in Colab, else None."""
    if cell.metadata.get("cellView") == "form" and (title := FORM.match(cell.source)):
        return title[1]
    return "Code" if cell.metadata.get("jupyter", {}).get("source_hidden") else None


def lecture_page(number: int) -> str:
    """Return the page of a lecture: what it is about, what belongs to it, its slides."""
    plan, name = course.plan(), f"lecture{number}"
    lecture, later = plan["lecture"][number - 1], plan["lecture"][number:]
    lines = [
        f'- <a href="{name}.pdf">Slides</a> and <a href="{name}-handout.pdf">handout</a> (PDF)',
        f"- [Seminar {number}](../../seminars/seminar{number}/seminar{number}.ipynb)",
    ]
    for index, homework in enumerate(plan["homework"], start=1):
        if lecture["date"] <= homework["out"] and not (later and later[0]["date"] <= homework["out"]):
            link = f"[Homework {index}](../../homeworks/homework{index}/hw{index}.ipynb)"
            days = f"out {course.spoken(homework['out'])}, due {course.spoken(homework['deadline'])}"
            lines.append(f"- {link}, {homework['topic']}: {days}")
    topics = html.escape(lecture["topics"])
    deck = (ROOT / f"lectures/{name}/{name}.typ").read_text(encoding="utf-8")
    title = re.search(r'^  subtitle: "(Lecture \d+: .+)",$', deck, re.M)[1]
    return f"""\
# {title}

{topics}. {course.spoken(lecture["date"])}.

{chr(10).join(lines)}

<object class="deck" title="Slides of lecture {number}" type="application/pdf"
  data="{name}-handout.pdf#navpanes=0">
<p>This browser shows no PDF inside a page: <a href="{name}-handout.pdf">open the handout</a>.</p>
</object>
"""


def licences_page() -> str:
    """Return the page with every licence in full."""
    parts = ["# Licences"]
    for path, title in LICENCES.items():
        parts += [f"## {title}", f"```text\n{(ROOT / path).read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts)


def contents(pages: dict[str, str]) -> str:
    """Return the tables of contents that the first page carries, unseen: the sidebar shows them."""
    folders = {"Lectures": "lectures/", "Seminars": "seminars/", "Homeworks": "homeworks/"}
    course_pages = [page for path, page in pages.items() if path in PAGES and page != "index.md"]
    parts = {"Course": [*course_pages, "licences.md"]}
    parts |= {
        caption: [page for page in pages.values() if page.startswith(start)]
        for caption, start in folders.items()
    }
    return "\n".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```"
        for caption, entries in parts.items()
        if entries
    )


def gather() -> None:
    """Write the source of every page to SOURCE.

    Raises:
        SiteError: a link points at a file that does not exist.
    """
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages = page_map()
    for path, page in pages.items():
        if path.endswith(".ipynb"):
            text = text_of(notebook_page(path, pages))
        elif path.endswith(".pdf"):
            text = lecture_page(int(re.search(r"\d+", path)[0]))
        elif path in LICENCES:
            text = licences_page()
        else:
            text = markdown_page(path, pages) + (contents(pages) if page == "index.md" else "")
        write_atomically(SOURCE / page, text)


def copy_files() -> None:
    """Put beside the pages what they link to: decks, sheets, sliders, notebooks as they are downloaded."""
    shutil.copytree(FRAMES, SITE / "_static" / "sliders")
    for path in [*ROOT.glob("lectures/*/*.pdf"), *ROOT.glob("homeworks/*/*.pdf")]:
        shutil.copyfile(path, SITE / path.relative_to(ROOT))
    for path in notebooks():
        write_atomically(SITE / "_sources" / path, text_of(public_notebook(read_notebook(ROOT / path))))


def main() -> int:
    """Write the site, say where it lies, and return the exit status."""
    from sphinx.cmd.build import main as sphinx

    try:
        gather()
    except (SiteError, NotebookError) as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    where = ["-c", str(ROOT / "docs"), "-d", str(ROOT / "build" / "site-doctrees"), str(SOURCE), str(SITE)]
    if status := sphinx(["-b", "html", "-q", "-E", "-W", "--keep-going", "-j", str(os.cpu_count()), *where]):
        return status
    copy_files()
    folder = SITE.relative_to(ROOT)
    print(f"{folder}/index.html: open it, or serve it: python3 -m http.server -d {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
