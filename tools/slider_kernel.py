"""Run by a kernel of `tools.sliders` at its start: `interact` also draws what its controls would show."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from IPython.utils.capture import capture_output

VALUES, FRAMES = 13, 60  # of one control, of one slider: enough to see what moves, few enough to ship


def install(folder: str) -> None:
    """Let each call of `interact` write its frames into the next file of a folder, `00.json` first."""
    interact = ipywidgets.interact

    def record(function: Callable, **controls: object) -> Callable:
        before = random_state()
        shown = interact(function, **controls)  # as always: later cells find what it leaves behind
        after = random_state()
        widgets = shown.widget.kwargs_widgets
        chosen = choices(widgets)
        frames = []
        for values in itertools.product(*chosen):
            set_random_state(before)  # so a frame shows what the slider's own first picture would
            names = (widget._kwarg for widget in widgets)
            frames.append(frame(function, dict(zip(names, values, strict=True))))
        set_random_state(after)
        described = [described_control(*pair) for pair in zip(widgets, chosen, strict=True)]
        number = len(list(Path(folder).iterdir()))
        content = json.dumps({"controls": described, "frames": frames})
        Path(folder, f"{number:02}.json").write_text(content, encoding="utf-8")
        return shown

    ipywidgets.interact = record


def choices(widgets: list[ipywidgets.Widget]) -> list[list]:
    """Return the values that each control takes: as many as let all combinations be at most FRAMES."""
    for count in range(VALUES, 1, -1):
        found = [values_of(widget, count) for widget in widgets]
        if math.prod(map(len, found)) <= FRAMES:
            return found
    raise ValueError(f"{len(widgets)} controls have more than {FRAMES} combinations: give the slider fewer")


def values_of(widget: ipywidgets.Widget, count: int) -> list:
    """Return at most so many values of a control, both ends and the default among them.

    They are evenly spaced, but closer to each other at the low end where the default stands in the lowest
    quarter: what the first tosses, steps or samples change is what such a slider is for.
    """
    if isinstance(widget, ipywidgets.Checkbox):
        return [False, True]
    last = round((widget.max - widget.min) / widget.step)
    default = round((widget.value - widget.min) / widget.step)
    bend = 2 if default <= last / 4 else 1
    steps = {*range(last + 1)}
    if len(steps) > count:
        steps = {round(last * (part / (count - 1)) ** bend) for part in range(count)}
    if default not in steps:  # it takes the place of its neighbour, never of an end
        steps -= set(sorted(steps - {0, last}, key=lambda step: abs(step - default))[:1])
        steps.add(default)
    values = {step: round(widget.min + step * widget.step, 10) for step in sorted(steps)}
    return list((values | {default: widget.value}).values())


def described_control(widget: ipywidgets.Widget, values: list) -> dict:
    """Return a control's name and values as the notebook shows them, and the place of the default."""
    plain = "" if isinstance(widget, ipywidgets.Checkbox) else widget.readout_format
    shown = [format(value, plain) for value in values]
    return {"name": widget.description, "values": shown, "default": values.index(widget.value)}


def frame(function: Callable, values: dict) -> dict[str, str]:
    """Return the picture that a function shows, PNG in base64, and its alternative text."""
    with capture_output() as captured:
        result = function(**values)
        if result is not None:
            display(result)
    pictures = [output for output in captured.outputs if "image/png" in output.data]
    if len(pictures) != 1:
        raise ValueError(f"expected one picture of {values}, got {len(pictures)}: show one figure")
    alt = pictures[0].metadata.get("image/png", {}).get("alt", "")
    return {"png": pictures[0].data["image/png"], "alt": alt}


def random_state() -> tuple:
    """Return the states of all generators that a notebook draws from."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.cuda.get_rng_state_all()


def set_random_state(state: tuple) -> None:
    """Go back to states that `random_state` returned."""
    setters = random.setstate, np.random.set_state, torch.set_rng_state, torch.cuda.set_rng_state_all
    for setter, part in zip(setters, state, strict=True):
        setter(part)
