"""The link check: what it finds in pages, notebooks and decks, and how it takes what a server says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import course, links


class Server(BaseHTTPRequestHandler):
    """Pages that are there, gone, shy or slow to come."""

    asked = []  # noqa: RUF012 (one list: each question makes an object)

    def answer(self):
        page = self.path.strip("/")
        self.asked.append((self.command, page))
        before = self.asked.count((self.command, page)) - 1
        status = {"there": 200, "gone": 404, "robots": 403, "too-often": 429, "moved": 301}.get(page, 404)
        if page == "no-head":
            status = 405 if self.command == "HEAD" else 200
        if page == "busy":
            status = 200 if before else 503
        self.send_response(status)
        if status == 301:
            self.send_header("Location", "/there")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET = answer  # noqa: N815 (http.server's names)

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "page, state, questions",
    [
        ("there", "there", 1),
        ("moved", "there", 1),
        ("no-head", "there", 2),
        ("busy", "there", 3),
        ("robots", "refused: 403 Forbidden", 6),
        ("too-often", "refused: 429 Too Many Requests", 6),
        ("gone", "gone: 404 Not Found", 6),
    ],
)
def test_what_a_server_says(server, page, state, questions):
    Server.asked.clear()
    assert links.ask(f"{server}/{page}", pause=0) == state
    assert len([asked for _, asked in Server.asked if asked == page]) == questions


def test_a_server_that_is_not_there():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as closed:
        port = closed.server_port
    assert links.ask(f"http://127.0.0.1:{port}/there", pause=0).startswith("gone: ")


def test_only_what_is_gone_is_an_error(server, capsys):
    assert links.main([f"{server}/there", f"{server}/robots"], pause=0) == 0
    assert "2 addresses: 0 gone, 1 that refuse robots" in capsys.readouterr().out
    assert links.main([f"{server}/there", f"{server}/gone"], pause=0) == 1
    assert f"gone: 404 Not Found  {server}/gone\n" in capsys.readouterr().out


def test_a_server_is_not_asked_twice_at_once(server, monkeypatch):
    waited = []
    monkeypatch.setattr(links.time, "sleep", waited.append)
    links.ask_all([f"{server}/there", f"{server}/moved"], pause=7)
    assert waited == [7, 7]


def test_addresses_are_found_in_pages_notebooks_and_decks(tmp_path):
    home = "https://github.com/{owner}/{repository}".format(**course.home())
    (tmp_path / "README.md").write_text(
        f"[a](https://a.org/x#part), <https://b.org/y>. Ours: {home}/blob/main/x. `http://127.0.0.1:8000`,\n"
        "*https://c.org/z*; yours: https://example.org/you"
    )
    cells = [("markdown", "[d](https://d.org)"), ("code", 'open("https://code.org")')]
    cells = [{"cell_type": kind, "source": [source]} for kind, source in cells]
    (tmp_path / "seminars/seminar1").mkdir(parents=True)
    (tmp_path / "seminars/seminar1/seminar1.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "lectures").mkdir()
    deck = (
        '#let arxiv(id) = link("https://arxiv.org/abs/" + id)\n#arxiv("1312.6114") #link("https://b.org/y")'
    )
    (tmp_path / "lectures/x.typ").write_text(deck)
    assert links.cited(tmp_path) == {
        "https://a.org/x": ["README.md"],
        "https://b.org/y": ["README.md", "lectures/x.typ"],
        "https://c.org/z": ["README.md"],
        "https://arxiv.org/abs/1312.6114": ["lectures/x.typ"],
        "https://d.org": ["seminars/seminar1/seminar1.ipynb"],
    }


def test_the_papers_of_every_part_of_the_course_are_asked_for():
    found = links.cited()
    citing = {path.split("/")[0] for paths in found.values() for path in paths}
    assert {"NOTICE", "lectures", "seminars"} <= citing
    assert sum(address.startswith("https://arxiv.org/abs/") for address in found) > 80
