"""Write a result in the forms that other systems read: Gradescope's results.json, and JUnit's XML."""

from xml.etree import ElementTree

from grading import store
from grading.record import Entry, Result
from grading.text import plain

PASSED, OPEN = ("ok", "marked"), ("manual",)
KINDS = {"error": "error", "timeout": "error", "manual": "skipped"}  # all others failed


def gradescope(result: Result) -> str:
    """Return Gradescope's `results.json`; a question that waits for a teacher has no `status` there."""
    tests = []
    for name, entry in result.questions.items():
        test = {"name": name, "score": entry.score, "max_score": entry.max, "output": _words(entry)}
        if entry.status not in OPEN:
            test["status"] = "passed" if entry.status in PASSED else "failed"
        tests.append(test)
    output = "\n".join([f"{result.homework}: {result.status}", *result.notes])
    values = {"score": result.score, "output": output, "output_format": "text", "visibility": "visible"}
    return store.as_json(values | {"stdout_visibility": "hidden", "tests": tests})


def junit(result: Result) -> str:
    """Return a JUnit suite, in which what raised or took too long is an error, and what waits is skipped."""
    kinds = {
        name: KINDS.get(str(entry.status), "failure")
        for name, entry in result.questions.items()
        if entry.status not in PASSED
    }
    counts = {f"{kind}s": str(list(kinds.values()).count(kind)) for kind in ("failure", "error")}
    counts["skipped"] = str(list(kinds.values()).count("skipped"))
    names = {"name": result.homework, "tests": str(len(result.questions))}
    suite = ElementTree.Element("testsuite", names | counts)
    for name, entry in result.questions.items():
        case = ElementTree.SubElement(suite, "testcase", {"classname": result.homework, "name": name})
        if name in kinds:
            ElementTree.SubElement(case, kinds[name], {"message": _words(entry)})
    ElementTree.SubElement(suite, "system-out").text = plain("\n".join(result.notes))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


FORMS = {"gradescope": gradescope, "junit": junit}


def _words(entry: Entry) -> str:
    return plain(f"{entry.status}: {entry.message}")
