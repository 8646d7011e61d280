"""Present a seminar live: JupyterLab with the slide deck, the course's style and no network.

`python -m tools.live [NOTEBOOK] [OPTIONS OF JUPYTERLAB]` is `make lab`; it opens the first seminar unless
another notebook is named. The slides button in the notebook's toolbar starts and ends the presentation.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from tools.notebooks import ROOT, NotebookError, find_notebooks

# Each file is written only where there is none, so that what a teacher changes in the menus stays.
SETTINGS = {
    "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    # A slide is narrower than a window: a long line of code must not leave it.
    "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "codeCellConfig": {"lineWrap": True},
    },
    # An extension of the test suite's, of no use in class.
    "labconfig/page_config.json": {"disabledExtensions": {"@jupyter/nbgrader": True}},
}
OPTIONS = [
    "--custom-css",
    "--LabApp.extension_manager=readonly",  # the other one looks for extensions on the network
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]


def configure(folder: Path) -> None:
    """Write the configuration of JupyterLab for the course into a folder of its own."""
    (folder / "custom").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "tools" / "live.css", folder / "custom" / "custom.css")
    for name, content in SETTINGS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(content, indent=1) + "\n")


def command(notebook: Path, options: list[str]) -> list[str]:
    """Return the command that starts JupyterLab with a notebook of the repository open."""
    page = f"/lab/tree/{notebook.resolve().relative_to(ROOT).as_posix()}"
    root = f"--ServerApp.root_dir={ROOT}"
    return [sys.executable, "-m", "jupyterlab", root, f"--LabApp.default_url={page}", *OPTIONS, *options]


def main(arguments: list[str]) -> int:
    """Replace this process by JupyterLab; return 2 when there is no such notebook."""
    named = [argument for argument in arguments if not argument.startswith("-")]
    try:
        notebook = find_notebooks(named or [ROOT / "seminars"])[0]
        start = command(notebook, [argument for argument in arguments if argument.startswith("-")])
    except (NotebookError, IndexError, ValueError) as error:
        print(f"no notebook of this repository to open: {error}", file=sys.stderr)
        return 2
    configuration = ROOT / ".jupyter"
    configure(configuration)
    print(f"opening {notebook}; the slides button in its toolbar starts the presentation", flush=True)
    os.execve(start[0], start, os.environ | {"JUPYTER_CONFIG_DIR": str(configuration)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
