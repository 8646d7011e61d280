"""The workflows: what they run exists, what they may do is little, what CONTRIBUTING says of them is true."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tools import course, page
from tools.notebooks import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TEXTS = [path.read_text(encoding="utf-8") for path in WORKFLOWS]
JOBS = {
    (path.stem, name): job
    for path, text in zip(WORKFLOWS, TEXTS, strict=True)
    for name, job in yaml.safe_load(text)["jobs"].items()
}
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=["-".join(names) for names in JOBS])


def commands(job):
    """The shell commands of a job, split into words."""
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    return [shlex.split(part) for line in lines for part in re.split(r" (?:\|\||\||&&) ", line)]


@each_job
def test_what_a_job_runs_exists(job):
    targets = set(re.findall(r"^([\w./]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(job):
        if words[0] == "make":
            assert words[1] in targets, words
        if "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), words
        for word in words:
            if re.match(r"(?:tests|tools|grading|seminars|homeworks)/", word):
                assert (ROOT / word).exists(), word


@each_job
def test_a_job_ends_says_what_failed_and_keeps_no_credentials(job):
    assert 0 < job["timeout-minutes"] <= 360
    assert "continue-on-error" not in job, "the run would be green, and nobody be told"
    assert job.get("strategy", {"fail-fast": False})["fail-fast"] is False, "one version would hide another"
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_is_one_commit_with_its_version_beside_it():
    used = [re.findall(r"uses: (.*)", text) for text in TEXTS]
    used = [line for lines in used for line in lines]
    assert used
    for line in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    commits = {tuple(line.split(" # ")[0].split("@")) for line in used}
    assert len(commits) == len({name for name, _ in commits}), "one action, two commits"


def test_only_the_site_may_write_and_only_the_site():
    for path, text in zip(WORKFLOWS, TEXTS, strict=True):
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}, path.name
    rights = {names: job["permissions"] for names, job in JOBS.items() if "permissions" in job}
    assert rights == {("pages", "deploy"): {"pages": "write", "id-token": "write"}}
    # It asks GitHub about the site, which a job without rights on Pages may not; ours needs no answer.
    assert not [text for text in TEXTS if "actions/configure-pages" in text]


def test_only_the_students_repository_publishes(monkeypatch):
    home = "{owner}/{repository}".format(**course.home())
    assert JOBS["pages", "build"]["if"] == f"github.repository == '{home}'"
    assert JOBS["pages", "deploy"]["needs"] == "build"
    monkeypatch.setattr(course, "home", lambda: {"owner": "somebody", "repository": "my-course"})
    text = (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8")
    assert (
        yaml.safe_load(page.publishing(text))["jobs"]["build"]["if"]
        == "github.repository == 'somebody/my-course'"
    )


def test_the_site_needs_no_more_than_the_job_installs():
    """The group `site`, which has neither torch nor what runs notebooks."""
    (group,) = [words for words in commands(JOBS["pages", "build"]) if "--group" in words]
    assert group[group.index("--group") + 1] == "site"
    others = ["torch", "numpy", "matplotlib", "papermill", "psutil"]
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); import tools.site"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_pages_artifact_is_what_make_site_writes():
    (upload,) = [step for step in JOBS["pages", "build"]["steps"] if "upload-pages" in step.get("uses", "")]
    assert upload["with"]["path"] == "build/site"


def test_weekly_is_once_a_week_and_monthly_once_a_month():
    for path, text in zip(WORKFLOWS, TEXTS, strict=True):
        days = {"weekly": [r"\* \* [0-6]"], "monthly": [r"1 \* \*"]}.get(path.stem, [])
        found = re.findall(r'- cron: "(.*)"', text)
        assert len(found) == len(days), path.name
        assert all(re.fullmatch(r"[1-5]?\d 1?\d " + day, one) for day, one in zip(days, found, strict=True))


def test_contributing_lists_every_job():
    """And no other, by the names of workflow and job, at the beginning of a line."""
    text = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## What CI runs")[1].split("\n## ")[0]
    )
    assert set(re.findall(r"^(?:\| )?`(\w+)` (?:\| )?`(\w+)`", text, re.MULTILINE)) == set(JOBS)
