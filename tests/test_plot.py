import base64
import itertools
import math

import matplotlib as mpl
import matplotlib.figure
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex, to_rgb, to_rgba
from nbformat.v4 import new_code_cell, new_notebook

from dgm_utils import plot

HISTORY = {
    "train/loss": [((i + 1) / 100, 5 - i / 250) for i in range(1000)],
    "valid/loss": [(epoch, 5 - epoch / 3) for epoch in range(1, 11)],
    "seconds": [(epoch, 2.0 * epoch) for epoch in range(1, 11)],
}


def standard_normal(x):
    return -0.5 * (x**2).sum(1) - math.log(2 * math.pi)


DRAWN = {
    "images": lambda **k: plot.images(torch.zeros(5, 1, 28, 28), **k),
    "curves": lambda **k: plot.curves(HISTORY, **k),
    "density": lambda **k: plot.density(standard_normal, **k),
    "scatter": lambda **k: plot.scatter(torch.randn(50, 2), np.zeros((3, 2)), **k),
    "matrix": lambda **k: plot.matrix(torch.eye(4), **k),
    "histogram": lambda **k: plot.histogram(torch.randn(100), lambda x: -(x**2) / 2, **k),
}


# ----------------------------------------------------------------------------------------- in a real notebook
BARE = """
import sys
import torch
from IPython.display import display
from dgm_utils import plot
"""
PYPLOT = "import matplotlib.pyplot as plt\n" + BARE


def executed(imports, *sources):
    """Run the cells in a kernel; return for each cell the alternative texts of the pictures it shows."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in (imports, *sources)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=120, iopub_timeout=60).execute()  # patient on a busy machine
    shown = []
    for cell in notebook.cells[1:]:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        for output in pictures:
            assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
        shown.append([output.metadata.get("image/png", {}).get("alt") for output in pictures])
    nbformat.validate(notebook)
    return shown


TWICE = "for n in (2, 3): display(plot.matrix(torch.eye(n), alt=f'size {n}'))"
COMPOSED = """
figure, (left, right) = plot.subplots(1, 2)
plot.matrix(torch.eye(2), ax=left, alt='left')
plot.scatter(torch.zeros(3, 2), ax=right, alt='right')
"""
BY_HAND = "figure, ax = plt.subplots(); ax.plot([1, 2]); "


@pytest.fixture
def notebook_backend(monkeypatch):
    """Let the kernel choose its own backend, as in JupyterLab, whatever other tests have set."""
    monkeypatch.delenv("MPLBACKEND", raising=False)


@pytest.mark.usefixtures("notebook_backend")
def test_a_figure_is_shown_once_with_its_alternative_text():
    cells = {
        "plot.matrix(torch.eye(3), alt='identity')": ["identity"],
        "kept = plot.matrix(torch.eye(3))": [],
        "kept": ["3 by 3 matrix, 3 of 9 entries not zero, values 0 to 1"],
        TWICE: ["size 2", "size 3"],
        COMPOSED: ["left; right"],
        "assert 'matplotlib.pyplot' not in sys.modules": [],
    }
    assert executed(BARE, *cells) == list(cells.values())


@pytest.mark.usefixtures("notebook_backend")
def test_a_figure_is_shown_once_beside_pyplot():
    composed = COMPOSED.replace("plot.subplots", "plt.subplots")
    cells = {
        "plot.matrix(torch.eye(3), alt='identity')": ["identity"],
        "kept = plot.matrix(torch.eye(3))": [],
        TWICE: ["size 2", "size 3"],
        composed: ["left; right"],
        composed + "plt.show()": ["left; right"],
        "%matplotlib inline": [],
        "plot.matrix(torch.eye(3), alt='inline')": ["inline"],
        BY_HAND + "plot.describe(figure, 'by hand')": ["by hand"],
        BY_HAND + "plot.describe(figure, 'by hand');": ["by hand"],
        BY_HAND + "plot.describe(figure, 'by hand'); plt.show()": ["by hand"],
        BY_HAND: [None],  # pyplot's own figures are left as they are
    }
    assert executed(PYPLOT, *cells) == list(cells.values())


# ---------------------------------------------------------------------------------------------- all functions
@pytest.mark.parametrize("name", DRAWN)
def test_every_function_returns_a_described_figure_outside_of_pyplot(name):
    figure = DRAWN[name]()
    assert type(figure) is matplotlib.figure.Figure
    assert not Gcf.get_all_fig_managers()
    data, metadata = figure._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert len(metadata["image/png"]["alt"]) > 20
    titled = DRAWN[name](title="A title")
    assert titled.axes[0].get_title() == "A title"
    assert titled._repr_mimebundle_()[1]["image/png"]["alt"].startswith("A title: ")
    assert DRAWN[name](alt="my words")._repr_mimebundle_()[1]["image/png"]["alt"] == "my words"


@pytest.mark.parametrize("name", DRAWN)
def test_every_function_draws_into_given_axes(name):
    figure, (left, right) = plot.subplots(1, 2)
    assert DRAWN[name](ax=left, alt="left", title="here") is figure
    assert left.get_title() == "here"
    assert not right.has_data()
    assert DRAWN[name](ax=right, alt="right") is figure
    assert figure._repr_mimebundle_()[1]["image/png"]["alt"] == "left; right"


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_function_takes_values_with_a_gradient(dtype, device):
    def tensor(*shape):
        return torch.full(shape, 0.5, dtype=dtype, device=device, requires_grad=True)

    def log_prob(x):  # as a network in that precision answers
        return tensor() * x.to(dtype).square().reshape(len(x), -1).sum(1)

    def transform(x):
        with torch.enable_grad():  # as a flow does that differentiates inside
            return x.to(dtype) * tensor(2)

    figure, ax = plot.subplots()
    plot.images(tensor(2, 4, 4))
    plot.images([tensor(4, 4), tensor(4, 4)])
    plot.curves({"train/loss": [(1, tensor()), (2, tensor())]}, ax=ax)
    plot.density(log_prob, device=device, ax=ax)
    plot.scatter(tensor(3, 2), ax=ax)
    plot.ellipse(ax, tensor(2), tensor(2))
    plot.ellipse(ax, [0, tensor()], [[tensor(), 0], [0, tensor()]])
    plot.warped_grid(ax, lambda z: transform(z.to(device)))
    plot.matrix(tensor(2, 2), numbers=".1f", ax=ax)
    plot.histogram(torch.linspace(0, 1, 10, device=device).to(dtype).requires_grad_(), log_prob, ax=ax)
    assert "nan" not in figure._alt and figure._repr_mimebundle_()


def test_an_unknown_property_is_refused():
    with pytest.raises(AttributeError, match="titel"):
        plot.matrix(torch.eye(2), titel="typo")


def test_describe_wants_words():
    with pytest.raises(ValueError, match="empty"):
        plot.describe(plot.subplots()[0], "  ")


def test_style_is_set_at_import_and_again_on_demand():
    assert mpl.rcParams["font.size"] >= 14
    mpl.rcParams["font.size"] = 5
    plot.style()
    assert mpl.rcParams["font.size"] == 14


def test_matplotlib_s_own_names_of_colours_are_the_palette_s():
    named = [to_hex(f"C{k}").upper() for k in range(8)]
    assert named == list(plot.PALETTE)
    assert named[6] == "#000000"


# Machado, Oliveira, Fernandes 2009, severity 1: what a dichromat sees, in linear RGB.
DICHROMATS = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def linear_rgb(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", DICHROMATS)
def test_colours_stay_apart_for_colour_blind_eyes(kind):
    def seen(color):
        linear = np.clip(DICHROMATS[kind] @ linear_rgb(color), 0, 1)
        return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

    pairs = itertools.combinations(map(seen, plot.PALETTE), 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 0.11


# --------------------------------------------------------------------------------------------------- contents
def test_images_are_drawn_exactly_row_by_row():
    batch = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 1, 4, 4)
    canvas = plot.images(batch, columns=2).axes[0].get_images()[0].get_array()
    assert canvas.shape == (2 * 5 + 1, 2 * 5 + 1)
    for k, (y, x) in enumerate([(1, 1), (1, 6), (6, 1)]):
        np.testing.assert_allclose(canvas[y : y + 4, x : x + 4], batch[k, 0].numpy() / 255)
    assert (canvas[6:, 6:] == 1).all()  # nothing where there is no image


def test_images_of_all_types_look_the_same():
    grey = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    arrays = [grey, grey.double() / 255, (grey.double() / 255).squeeze(1), (grey / 255).numpy()]
    first, *others = [plot.images(a).axes[0].get_images()[0].get_array() for a in arrays]
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-7)
    assert plot.images(torch.rand(2, 3, 8, 8)).axes[0].get_images()[0].get_array().shape[2] == 3
    assert plot.images(torch.ones(2, 8, 8, dtype=torch.int64)).axes[0].get_images()[0].get_clim() == (0, 1)


def test_images_carry_titles_and_names_of_rows():
    figure = plot.images(torch.zeros(4, 8, 8), columns=2, titles=["a", "b", "c", "d"], rows=["data", "model"])
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c", "d"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["data", "model"]
    assert "data, model" in figure._alt
    with pytest.raises(ValueError, match="zip"):
        plot.images(torch.zeros(4, 8, 8), titles=["a", "b"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.rand(2, 8, 8) * 2 - 1, r"values in \[0, 1\], got -"),
        (torch.full((1, 8, 8), 255.0), "got 255 to 255"),
        (torch.full((1, 8, 8), 1.001), "got 1.001 to 1.001"),
        (torch.full((1, 8, 8), math.nan), "nan"),
        (torch.zeros(2, 2, 8, 8), r"got \(2, 2, 8, 8\)"),
        (torch.zeros(64), r"got \(64,\)"),
        (torch.zeros(0, 8, 8), r"got \(0, 8, 8\)"),
    ],
)
def test_images_refuse_what_they_cannot_show(batch, message):
    with pytest.raises(ValueError, match=message):
        plot.images(batch)


def test_images_forgive_rounding():
    canvas = plot.images(torch.tensor([[[-5e-5, 1.00005]]]).double()).axes[0].get_images()[0].get_array()
    assert (canvas.min(), canvas.max()) == (0, 1)


def test_curves_smooth_steps_and_mark_validation():
    figure = plot.curves(HISTORY)
    raw, smooth, valid = figure.axes[0].lines
    np.testing.assert_allclose(raw.get_ydata(), [value for _, value in HISTORY["train/loss"]])
    values = raw.get_ydata()
    np.testing.assert_allclose(smooth.get_ydata(), [values[i : i + 20].mean() for i in range(981)])
    assert smooth.get_xdata()[0] == HISTORY["train/loss"][19][0]
    np.testing.assert_array_equal(np.c_[valid.get_xdata(), valid.get_ydata()], HISTORY["valid/loss"])
    assert valid.get_marker() != ""
    assert smooth.get_color() == valid.get_color()
    assert figure._alt == "train/loss goes from 5 to 1.004, valid/loss goes from 4.667 to 1.667"
    assert len(plot.curves(HISTORY, "valid/loss", ylabel="nats").axes[0].lines) == 1
    with pytest.raises(KeyError, match=r"valid/kl.*train/loss"):
        plot.curves(HISTORY, "valid/kl")


def test_density_has_its_peak_where_it_is():
    figure = plot.density(lambda x: standard_normal(x - torch.tensor([2.0, -1.0])), (-4, 4))
    picture = figure.axes[0].get_images()[0]
    row, column = np.unravel_index(picture.get_array().argmax(), (200, 200))
    line = np.linspace(-4, 4, 200)
    assert picture.origin == "lower"
    assert (line[column], line[row]) == pytest.approx((2, -1), abs=0.03)
    assert picture.get_array().max() == pytest.approx(1 / (2 * math.pi), rel=1e-3)
    assert "(2, -0.98)" in figure._alt or "(2, -1)" in figure._alt
    with pytest.raises(ValueError, match=r"\(40000,\), got \(40000, 2\)"):
        plot.density(lambda x: x)


def test_scatter_gives_each_set_its_own_look():
    sets = [torch.randn(20, 2) + k for k in range(10)]
    figure = plot.scatter(*sets, labels=list(range(10)))
    drawn = figure.axes[0].collections
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in drawn}
    assert len(looks) == len(drawn) == 10
    np.testing.assert_allclose(drawn[3].get_offsets(), sets[3])
    two = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert plot.scatter(two, labels=["a"])._alt == "2 points of a around (2, 4)"
    with pytest.raises(ValueError, match=r"\(n, 2\), got \(5, 3\)"):
        plot.scatter(torch.zeros(5, 3))


@pytest.mark.parametrize("covariance", [[[2.0, 1.2], [1.2, 1.0]], [[1.0, -0.9], [-0.9, 3.0]], [0.3, 2.0]])
def test_an_ellipse_is_radius_standard_deviations_from_the_mean(covariance):
    mean, ax = np.array([5.0, -3.0]), plot.subplots()[1]
    patch = plot.ellipse(ax, torch.tensor(mean), torch.tensor(covariance), 2.5, color="C1", label="posterior")
    points = patch.get_verts() - ax.transData.transform(mean)  # in pixels; then in the data's units
    points = points / (ax.transData.transform((1, 1)) - ax.transData.transform((0, 0)))
    precision = np.linalg.inv(np.diag(covariance) if np.ndim(covariance) == 1 else covariance)
    distance = np.sqrt(np.einsum("ni,ij,nj->n", points, precision, points))
    np.testing.assert_allclose(distance, 2.5, rtol=1e-3)  # matplotlib's ellipses are splines
    assert patch.get_edgecolor() == to_rgba("C1") and not patch.get_fill()
    assert [text.get_text() for text in ax.legend().get_texts()] == ["posterior"]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()  # all of it is seen
    assert left < points[:, 0].min() + 5 < points[:, 0].max() + 5 < right
    assert low < points[:, 1].min() - 3 < points[:, 1].max() - 3 < high


def test_a_flat_ellipse_is_a_segment():
    """In EM a covariance may shrink to a line, and rounding then makes the lesser variance negative."""
    patch = plot.ellipse(plot.subplots()[1], [0, 0], [[1, 1], [1, 1 - 1e-15]], radius=3)
    assert sorted((patch.width, patch.height)) == pytest.approx([0, 6 * math.sqrt(2)])


@pytest.mark.parametrize(("mean", "covariance"), [([0, 0, 0], np.eye(3)), ([0, 0], np.eye(3)), ([0, 0], 1)])
def test_an_ellipse_lies_in_the_plane(mean, covariance):
    with pytest.raises(ValueError, match=r"a mean \(2,\) and a covariance \(2, 2\) or \(2,\), got \("):
        plot.ellipse(plot.subplots()[1], mean, covariance)


def test_a_warped_grid_is_the_image_of_straight_lines():
    shear, ax = torch.tensor([[1.0, 0.5], [0.0, 2.0]]), plot.subplots()[1]
    plot.warped_grid(ax, lambda x: x @ shear.T, reach=2, lines=5, color="C2", label="grid")
    (drawn,) = ax.lines  # one artist: a legend has one entry
    points = drawn.get_xydata()
    ends = np.flatnonzero(np.isnan(points[:, 0]))
    lines = [line[:200] for line in np.split(points, ends + 1)[:-1]]
    assert len(lines) == 2 * 5 and drawn.get_color() == "C2"
    straight = [line @ np.linalg.inv(shear.double().numpy()).T for line in lines]  # carried back
    for k, tick in enumerate(np.linspace(-2, 2, 5)):
        for line, still in ((straight[k], 0), (straight[5 + k], 1)):
            np.testing.assert_allclose(line[:, still], tick, atol=1e-6)
            np.testing.assert_allclose(line[:, 1 - still], np.linspace(-2, 2, 200), atol=1e-6)


@pytest.mark.parametrize(("transform", "got"), [(lambda x: (x, x[:, 0]), "tuple"), (lambda x: x[:9], "9, 2")])
def test_a_warped_grid_wants_points(transform, got):
    with pytest.raises(ValueError, match=rf"\(4400, 2\), got .*{got}"):
        plot.warped_grid(plot.subplots()[1], transform)


def test_matrix_is_symmetric_about_zero_where_it_has_negative_values():
    assert plot.matrix(torch.zeros(2, 2)).axes[0].get_images()[0].get_clim() == (0, 1)
    assert plot.matrix([[1.0, 3.0]]).axes[0].get_images()[0].get_clim() == (0, 3)
    picture = plot.matrix([[1.0, -3.0]]).axes[0].get_images()[0]
    assert picture.get_clim() == (-3, 3)
    (red, _, blue), (red_below, _, blue_below) = picture.to_rgba(np.array([3, -3]))[:, :3]
    assert red > blue and blue_below > red_below


def test_matrix_names_its_axes_and_wants_two():
    assert plot.matrix(torch.eye(2, dtype=torch.bool)).axes[0].get_ylabel() == "output"
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        plot.matrix([1, 2, 3])


def test_matrix_has_no_numbers_unless_asked():
    assert not plot.matrix(torch.eye(2)).axes[0].texts


@pytest.mark.parametrize(
    ("values", "numbers", "written"),
    [
        (torch.tensor([[0.126, -2.0]]), ".2f", ["0.13", "-2.00"]),
        (torch.tensor([[7, 1200]]), "d", ["7", "1200"]),
        (torch.tensor([[True, False]]), "d", ["1", "0"]),
    ],
)
def test_numbers_stand_in_their_fields(values, numbers, written):
    texts = plot.matrix(values, numbers=numbers).axes[0].texts
    assert [text.get_text() for text in texts] == written
    assert [text.get_position() for text in texts] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("lowest", [0, -1])
def test_numbers_are_readable_on_dark_and_on_light_fields(lowest):
    """Contrast as in the Web Content Accessibility Guidelines; black or white alone may fall to 1."""
    values = torch.linspace(lowest, 1, 100).reshape(10, 10)
    ax = plot.matrix(values, numbers=".1f").axes[0]
    fields = ax.get_images()[0].to_rgba(values.flatten().numpy())
    for field, text in zip(fields, ax.texts, strict=True):
        dark, light = sorted(linear_rgb(c) @ (0.2126, 0.7152, 0.0722) for c in (field, text.get_color()))
        assert (light + 0.05) / (dark + 0.05) > 3.5, text
    assert {text.get_color() for text in ax.texts} == {"black", "white"}


def test_histogram_has_the_right_heights():
    ax = plot.histogram(torch.randn(1000), lambda x: -(x**2) / 2, bins=20).axes[0]
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, np.exp(-(np.asarray(x) ** 2) / 2), rtol=1e-5)
