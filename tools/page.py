"""Write what the course page and every notebook repeat: tables, links, badges, the set-up cell.

Where the course lives stands once, in ``[tool.dgm]`` of pyproject.toml; what was taught when stands once,
below. ``make fmt`` writes both into README.md and into the notebooks, ``--check`` says whether they are
current. A row links only to files that exist, so the page never has a dead link.
"""

import argparse
import json
import re
import sys
import tomllib

from tools import results
from tools.notebooks import ROOT, find_notebooks, write_atomically

LECTURES = [
    (1, "February, 11", "Logistics. Motivation. Autoregressive models (MADE, WaveNet, PixelCNN, PixelCNN++)"),
    (2, "February, 18", "Bayesian framework. Latent variable models. Variational lower bound. EM algorithm"),
    (3, "February, 25", "ELBO, reparametrization trick, variational autoencoder. MLE vs MAP. VAE drawbacks"),
    (4, "March, 5", "Mean-field approximation and EM. Flow models definition. Forward and reverse KL"),
    (5, "March, 11", "Flow models (planar flows, NICE, RealNVP, Glow). Flows in variational inference"),
    (6, "March, 18", "Autoregressive flows (MAF, IAF). Flow KL duality. Uniform dequantization"),
    (7, "March, 25", "Variational dequantization. IWAE. ELBO surgery"),
    (
        8,
        "April, 1",
        "VampPrior + autoregressive prior. Posterior collapse. Disentanglement learning (beta-VAE)",
    ),
    (9, "April, 8", "Disentanglement learning (DIP-VAE + summary). Likelihood-free learning. GAN theorem"),
    (
        10,
        "April, 15",
        "GAN problems: vanishing gradients, mode collapse. KL vs JSD. DCGAN. Wasserstein GAN",
    ),
    (
        11,
        "April, 22",
        "WGAN-GP. Spectral normalization GAN. f-divergence minimization. "
        "GAN evaluation (Inception score, FID)",
    ),
]
HOMEWORKS = [
    (1, "February, 11", "February, 28", 13, "Histogram + MADE (practice)"),
    (2, "February, 28", "March, 14", 15, "Autoregressive models + LVM (theory)"),
    (3, "March, 14", "March, 28", 13, "VAE + RealNVP (practice)"),
    (4, "March, 28", "April, 11", 14, "AR flow + VAE with AR prior (practice)"),
    (5, "April, 11", "April, 25", 13, "Sylvester flow + ELBO MI + IW dequantization + LSGAN (theory)"),
]

# The first cell of every notebook. It installs the package only on Colab, only once, and at a release:
# a later edit of the course never changes what a student's copy runs with.
SETUP_CELL = """\
# @title Set-up: run this cell first {{ display-mode: "form" }}
import importlib.util
import subprocess
import sys

TAG = "{tag}"  # the release this notebook was made with
COURSE = f"git+https://github.com/{owner}/{repository}@{{TAG}}"
if "google.colab" in sys.modules and importlib.util.find_spec("dgm_utils") is None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", COURSE]
    if subprocess.run(install).returncode != 0:
        raise RuntimeError(
            f"pip could not install release {{TAG}} of the course. If that release is not published yet, "
            'change the line above to TAG = "{branch}" and run this cell again.'
        )
    importlib.invalidate_caches()
import dgm_utils  # on your own machine `make` has installed it\
"""


def course() -> dict[str, str]:
    """Read owner, repository, branch and tag from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dgm"]


def setup_cell() -> str:
    """Return the source of every notebook's first cell."""
    return SETUP_CELL.format(**course())


def badges(path: str) -> str:
    """Return the two badges of a notebook: read it on GitHub, run it in Colab."""
    where = "{owner}/{repository}/blob/{branch}/".format(**course()) + path
    return (
        "[![Open in GitHub](https://img.shields.io/badge/GitHub-open-24292f?logo=github)]"
        f"(https://github.com/{where}) "
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{where})"
    )


def _links(*named: tuple[str, str]) -> str:
    """Join links to those of the named files that exist."""
    return " · ".join(f"[{name}]({path})" for name, path in named if (ROOT / path).exists())


def lecture_table() -> str:
    """Return the Markdown table of lectures and seminars."""
    rows = ["| # | Date | Lecture | Slides | Seminar |", "| ---: | --- | --- | --- | --- |"]
    for number, date, topics in LECTURES:
        deck = f"lectures/lecture{number}/lecture{number}"
        slides = _links(("slides", f"{deck}.pdf"), ("handout", f"{deck}-handout.pdf"))
        notebook = f"seminars/seminar{number}/seminar{number}.ipynb"
        seminar = f"S{number} " + badges(notebook) if (ROOT / notebook).exists() else f"S{number}"
        rows.append(f"| {number} | {date} | {topics} | {slides} | {seminar} |")
    return "\n".join(rows)


def homework_table() -> str:
    """Return the Markdown table of homeworks."""
    rows = ["| # | Date | Deadline | Points | Topic | Task |", "| ---: | --- | --- | ---: | --- | --- |"]
    for number, date, deadline, points, topic in HOMEWORKS:
        folder = f"homeworks/homework{number}/hw{number}"
        task = [badges(f"{folder}.ipynb")] if (ROOT / f"{folder}.ipynb").exists() else []
        task += [link] if (link := _links(("sheet", f"{folder}.pdf"))) else []
        rows.append(f"| {number} | {date} | {deadline} | {points} | {topic} | {' '.join(task)} |")
    return "\n".join(rows)


def fill(text: str, name: str, body: str) -> str:
    """Replace what stands between the two comments that mark a generated part of a Markdown page."""
    begin, end = f"<!-- begin {name} (written by make fmt) -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md needs one pair of lines '{begin}' and '{end}'")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.split(end)[1]}"


def page(text: str) -> str:
    """Return README.md with its generated parts renewed."""
    text = fill(text, "lectures", lecture_table())
    text = fill(text, "homeworks", homework_table())
    return fill(text, "results", results.markdown_table(sorted((ROOT / "results").glob("*.json"))))


def notebook(text: str) -> str:
    """Return a notebook's JSON with its set-up cell renewed."""
    nb = json.loads(text)
    for cell in nb["cells"]:
        if "setup" in cell["metadata"].get("tags", []):
            cell["source"] = setup_cell().splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def citation(text: str) -> str:
    """Return CITATION.cff with the repository's address renewed."""
    address = "https://github.com/{owner}/{repository}".format(**course())
    return re.sub(r'^repository-code: ".*"$', f'repository-code: "{address}"', text, flags=re.M)


def main() -> int:
    """Renew every page, or with --check list those that are not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when something is stale")
    check = parser.parse_args().check
    pages = {ROOT / "README.md": page, ROOT / "CITATION.cff": citation}
    pages |= dict.fromkeys(find_notebooks(), notebook)
    stale = 0
    for path, renew in pages.items():
        old = path.read_text(encoding="utf-8")
        new = renew(old)
        if new != old:
            stale += 1
            print(f"{path.relative_to(ROOT)}: {'stale, run make fmt' if check else 'renewed'}")
            if not check:
                write_atomically(path, new)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
