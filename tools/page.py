"""Write what the course's pages repeat: tables, links, badges.

Where the course lives and what is taught when stand once (see `tools.course`). ``make fmt`` writes them into
README.md, POLICY.md and others, ``--check`` says whether they are current. A row links only to files
that exist, so a page never has a dead link.
"""

import argparse
import re
import sys

from tools import course, notation, places, results, topics
from tools.notebooks import ROOT, read_notebook, write_atomically

PLAN = re.compile(r"\*\*Plan for \d+ minutes\*\*")
INSTRUCTORS_LINES = re.compile(r"^<!-- (?:begin|end) instructors -->\n?", re.MULTILINE)


def _place(path: str) -> str:
    """Return where a file of the course lies on GitHub, and below Colab's address."""
    return "{owner}/{repository}/blob/{branch}/".format(**course.home()) + path


def colab_badge(path: str) -> str:
    """Return the badge that runs a notebook in Colab."""
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{_place(path)})"
    )


def badges(path: str) -> str:
    """Return the two badges of a notebook: read it on GitHub, run it in Colab."""
    read = "[![Open in GitHub](https://img.shields.io/badge/GitHub-open-24292f?logo=github)]"
    return f"{read}(https://github.com/{_place(path)}) {colab_badge(path)}"


def first_notebook() -> str:
    """Return the line that sends a newcomer to Colab."""
    badge = colab_badge("seminars/seminar1/seminar1.ipynb")
    return f"{badge} Nothing to install: this opens seminar 1. Run the first cell, then *Runtime*, *Run all*."


def _links(*named: tuple[str, str]) -> str:
    """Join links to those of the named files that exist."""
    return " · ".join(f"[{name}]({path})" for name, path in named if (ROOT / path).exists())


def lecture_table() -> str:
    """Return the Markdown table of lectures and seminars."""
    rows = ["| # | Date | Lecture | Slides | Seminar |", "| ---: | --- | --- | --- | --- |"]
    for number, lecture in enumerate(course.plan()["lecture"], start=1):
        date, topics = course.spoken(lecture["date"]), lecture["topics"]
        deck = f"lectures/lecture{number}/lecture{number}"
        slides = _links(("slides", f"{deck}.pdf"), ("handout", f"{deck}-handout.pdf"))
        notebook = f"seminars/seminar{number}/seminar{number}.ipynb"
        seminar = f"S{number} " + badges(notebook) if (ROOT / notebook).exists() else f"S{number}"
        rows.append(f"| {number} | {date} | {topics} | {slides} | {seminar} |")
    return "\n".join(rows)


def homework_table() -> str:
    """Return the Markdown table of homeworks."""
    rows = ["| # | Date | Deadline | Points | Topic | Task |", "| ---: | --- | --- | ---: | --- | --- |"]
    for number, homework in enumerate(course.plan()["homework"], start=1):
        out, deadline = course.spoken(homework["out"]), course.spoken(homework["deadline"])
        points, topic = homework["points"], f"{homework['topic']} ({homework['kind']})"
        folder = f"homeworks/homework{number}/hw{number}"
        task = [badges(f"{folder}.ipynb")] if (ROOT / f"{folder}.ipynb").exists() else []
        task += [link] if (link := _links(("sheet", f"{folder}.pdf"))) else []
        rows.append(f"| {number} | {out} | {deadline} | {points} | {topic} | {' '.join(task)} |")
    return "\n".join(rows)


def points_table() -> str:
    """Return the Markdown table of what the homeworks are worth."""
    homeworks = course.plan()["homework"]
    rows = ["| homework | points | kind |", "| ---: | ---: | --- |"]
    rows += [
        f"| {number} | {one['points']} | {one['kind']} |" for number, one in enumerate(homeworks, start=1)
    ]
    return "\n".join([*rows, f"| sum | {sum(one['points'] for one in homeworks)} | |"])


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between the two comments that mark a generated part of a Markdown page."""
    begin, end = f"<!-- begin {name} (written by make fmt) -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page needs one pair of lines '{begin}' and '{end}'")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.split(end)[1]}"


def readme(text: str) -> str:
    """Return README.md with its generated parts renewed."""
    text = fill(with_address(text), "colab", first_notebook())
    text = fill(text, "lectures", lecture_table())
    text = fill(text, "homeworks", homework_table())
    return fill(text, "results", results.highlights(ROOT / "results"))


def results_page(text: str) -> str:
    """Return results/README.md with its tables renewed."""
    return fill(text, "results", results.every_row(ROOT / "results"))


def plans() -> str:
    """Return every seminar's plan: minutes by section, what to leave out when late, what to start when."""
    parts = []
    for number in range(1, len(course.plan()["lecture"]) + 1):
        path = ROOT / f"seminars/seminar{number}/seminar{number}.ipynb"
        if path.exists():
            cells = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown"]
            title = cells[0].partition("\n")[0].removeprefix("# ")
            plan = next(source for source in cells if PLAN.search(source))
            rest = plan[PLAN.search(plan).end() :].strip()
            parts.append(f"### {title}\n\n{INSTRUCTORS_LINES.sub('', rest).strip()}")
    return "\n\n".join(parts)


def teachers(text: str) -> str:
    """Return docs/teachers.md with the plans renewed."""
    return fill(text, "plans", plans())


def find_your_way(text: str) -> str:
    """Return docs/find-your-way.md with its lists and every link to a place renewed."""
    text = fill(places.renewed(text), "map", topics.course_map())
    text = fill(text, "weeks", topics.by_week())
    text = fill(text, "topics", topics.by_topic())
    return fill(text, "homeworks", topics.by_homework())


def notation_page(text: str) -> str:
    """Return docs/notation.md with the symbols of all slides and every link to a place renewed."""
    return fill(places.renewed(text), "symbols", notation.tables())


def with_address(text: str) -> str:
    """Return a page with the lines that clone the course renewed."""
    address = "https://github.com/{owner}/{repository}.git\ncd {repository}".format(**course.home())
    return re.sub(r"https://github\.com/\S+\.git\ncd \S+", address, text)


def policy(text: str) -> str:
    """Return POLICY.md with its table of points, and the line that says where to hand in, renewed."""
    return fill(course.with_hand_in(text), "points", points_table())


def citation(text: str) -> str:
    """Return CITATION.cff with the repository's address renewed."""
    address = "https://github.com/{owner}/{repository}".format(**course.home())
    return re.sub(r'^repository-code: ".*"$', f'repository-code: "{address}"', text, flags=re.M)


def publishing(text: str) -> str:
    """Return the workflow that publishes the site, with the only repository that does so renewed."""
    name = "{owner}/{repository}".format(**course.home())
    return re.sub(r"(github\.repository == )'[^']*'", lambda found: f"{found[1]}'{name}'", text)


PAGES = {
    "README.md": readme,
    "results/README.md": results_page,
    "docs/students.md": with_address,
    "docs/find-your-way.md": find_your_way,
    "docs/notation.md": notation_page,
    "docs/teachers.md": teachers,
    "POLICY.md": policy,
    "CITATION.cff": citation,
    ".github/workflows/pages.yml": publishing,
}


def main(arguments: list[str] | None = None) -> int:
    """Renew every page, or with --check list those that are not current; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.page", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when something is stale")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, renew in PAGES.items():
        path = ROOT / name
        if not path.exists():  # an edition lacks what only teachers read
            continue
        old = path.read_text(encoding="utf-8")
        new = renew(old)
        if new != old:
            stale += 1
            print(f"{name}: {'stale, run make fmt' if check else 'renewed'}")
            if not check:
                write_atomically(path, new)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
