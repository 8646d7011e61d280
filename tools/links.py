"""Ask every address that the course cites whether it is still there.

`python -m tools.links` reads pages, notebooks and decks; it needs a network and nothing but Python, and
leaves a server some seconds between two questions. `python -m tools.links ADDRESS...` asks for these alone.
What lies in the course itself is looked for by the tests. Exit status: 0 nothing is gone, 1 something is.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urldefrag, urlsplit

from tools import course
from tools.notebooks import ROOT, source_of

PAGES = ["*.md", "NOTICE", "CITATION.cff", "docs/*.md", "grading/*.md", "results/*.md"]
NOTEBOOKS = ["seminars/*/*.ipynb", "homeworks/*/*.ipynb"]
PLACES = [*PAGES, *NOTEBOOKS, "lectures/**/*.typ", ".github/ISSUE_TEMPLATE/*.yml"]
ADDRESS = re.compile(r"https?://[^\s<>\"'`)\]}|\\]+")
ARXIV = re.compile(r'\barxiv\("([^"]+)"\)')  # how a deck cites a paper
EXAMPLES = re.compile(r"[{…]|\b(?:example\.(?:org|com)|localhost|127\.0\.0\.1)\b")  # not to be followed
REFUSALS = {401, 403, 405, 406, 418, 429, 451, 999}  # say that robots are not let in, not that a page is gone
TRIES = 3
PAUSE = 3.0  # seconds between two questions to a server
PATIENCE = 30.0  # seconds for an answer


def cited(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the addresses of other people's pages, each with the files that cite it."""
    ours = "{owner}/{repository}".format(**course.home())
    found = defaultdict(list)
    for path in sorted({path for place in PLACES for path in root.glob(place)}):
        for address in dict.fromkeys(_addresses(path)):
            if ours not in address and not EXAMPLES.search(address):
                found[address].append(path.relative_to(root).as_posix())
    return dict(found)


def _addresses(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    if path.suffix == ".typ":
        yield from (f"https://arxiv.org/abs/{paper}" for paper in ARXIV.findall(text))
    for address in ADDRESS.findall(text):
        if address != "https://arxiv.org/abs/":  # the beginning, to which a deck adds the paper
            yield urldefrag(address.rstrip(".,;:*_")).url


def ask(address: str, pause: float = PAUSE) -> str:
    """Return `there`, or why not: `refused` to robots, or `gone`, each with the status or the error.

    The header alone is asked for first, then the page; all of it up to `TRIES` times, `pause` seconds apart.
    """
    agent = "Mozilla/5.0 (compatible; weekly link check of github.com/{owner}/{repository})"
    headers = {"User-Agent": agent.format(**course.home())}
    state = ""
    for method in ["HEAD", "GET"] * TRIES:
        if state:
            time.sleep(pause)
        try:
            request = urllib.request.Request(
                quote(address, safe="%/:=&?~#+!$,;'@()*[]"), None, headers, method=method
            )
            urllib.request.urlopen(request, timeout=PATIENCE).close()
            return "there"
        except urllib.error.HTTPError as error:
            state = f"{'refused' if error.code in REFUSALS else 'gone'}: {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            state = f"gone: {error}"
    return state


def ask_all(addresses: Iterable[str], pause: float = PAUSE) -> dict[str, str]:
    """Ask for every address, all servers at the same time and each for one page after the other."""
    servers = defaultdict(list)
    for address in addresses:
        servers[urlsplit(address).netloc].append(address)

    def one_server(of_one: list[str]) -> list[tuple[str, str]]:
        answers = []
        for address in of_one:
            answers.append((address, ask(address, pause)))
            time.sleep(pause)
        return answers

    with ThreadPoolExecutor(16) as executor:
        return dict(answer for answers in executor.map(one_server, servers.values()) for answer in answers)


def main(arguments: list[str], pause: float = PAUSE) -> int:
    """Print what does not answer, with the files that cite it; return the exit status."""
    files = {address: [] for address in arguments} or cited()
    states = ask_all(files, pause)
    for address, state in sorted(states.items(), key=lambda pair: pair[1]):
        if state != "there":
            print(f"{state}  {address}  {', '.join(files[address])}".rstrip())
    gone = sum(state.startswith("gone") for state in states.values())
    refused = sum(state.startswith("refused") for state in states.values())
    print(f"{len(states)} addresses: {gone} gone, {refused} that refuse robots (look at these in a browser)")
    return int(gone > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
