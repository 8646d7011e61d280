"""Train the autoregressive flows that lecture 6 shows and store what its figures draw.

    python -m lectures.lecture6.trained_flows [PART ...]

About five minutes on two quiet CPU cores; with names of parts, only those are made anew. The figures are
drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, metrics, train, weights
from lectures.lecture5.trained_flows import banana, mean_and_error
from tools.definitions import seminar

S5 = seminar(5, "AffineCoupling", "baselines", "Logit", "initialise")
S6 = seminar(6, "MAF", "IAF", "BatchNorm", "pushed_log_prob")
STORED = Path(__file__).parent / "figures" / "trained_flows.npz"

# --- Half moons in the plane ------------------------------------------------------------------------------

MOONS = data.moons(scale=0.15)
LIMIT, POINTS = 3.5, 221
FINE = 1201  # points of the grids behind two printed numbers: a ReLU's density has jumps
CODES_LIMIT = 6.0
FAR = 12.0  # a share of 1e-5 of the codes beyond 6 holds 2e-4 of the KL: a normal has nothing there
STEPS, BATCH = 4000, 256


def plane(limit: float, points: int = POINTS) -> Tensor:
    """Return the points of a square window, first coordinate fastest, (points^2, 2), float64."""
    line = torch.linspace(-limit, limit, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line).flip(1)


def cell(limit: float, points: int = POINTS) -> float:
    """Return the area of a cell of that window."""
    return (2 * limit / (points - 1)) ** 2


def stack(
    kind: type[nn.Module], m: int, widths: list[int], layers: int, bound: float = 2.0
) -> list[nn.Module]:
    """Return AR layers, MAF or IAF, in the natural and the reversed order in turn."""
    natural = torch.arange(m)
    orders = [natural if t % 2 == 0 else natural.flip(0) for t in range(layers)]
    return [kind(S6.GaussianMADE(m, widths, order, bound)) for order in orders]


def kept(log_p: Tensor) -> np.ndarray:
    """Return log-densities to be stored: where there is no mass, one value that packs well."""
    return log_p.clamp(min=-40).numpy()


def fit(loss: object, flow: nn.Module, steps: int, lr: float = 2e-3) -> nn.Module:
    """Train a flow by a loss that takes no batch, print the last value, return it in float64."""
    step = train.one_cycle(lambda _: {"loss": loss()}, flow, lr, steps)
    for _ in range(steps):
        terms = step(None)
    print(f"  last loss {terms['loss']:.3f}", flush=True)
    return flow.eval().double()


def both_kl(flow: nn.Module) -> list[float]:
    """Return KL(data || flow) in the plane of x and KL(codes || noise) in the plane of z, by fine grids.

    Third and fourth: the masses of data and of codes on these grids.
    """
    x, z = plane(LIMIT, FINE), plane(FAR, FINE)
    codes, noise = S6.pushed_log_prob(flow, MOONS.log_prob, z), torch.distributions.Normal(0.0, 1.0)
    pairs = (
        (MOONS.log_prob(x), flow.log_prob(x), LIMIT),
        (codes, noise.log_prob(z).sum(dim=1), FAR),
    )
    kls = [((p.exp() * (p - q)).sum() * cell(limit, FINE)).item() for p, q, limit in pairs]
    return kls + [(p.exp().sum() * cell(limit, FINE)).item() for p, _, limit in pairs]


@torch.no_grad()
def moons() -> dict[str, np.ndarray]:
    """Fit stacks of two and of five layers by maximum likelihood; return log-densities on grids, in nats."""
    found = {}
    for layers in (2, 5):
        torch.manual_seed(0)
        flow = S6.Flow(stack(S6.MAF, 2, [64, 64], layers))
        with torch.enable_grad():
            flow = fit(lambda flow=flow: -flow.log_prob(MOONS.sample(BATCH)).mean(), flow, STEPS)
        found[f"moons_{layers}"] = kept(flow.log_prob(plane(LIMIT)))
        if layers == 2:
            found["moons_codes"] = kept(S6.pushed_log_prob(flow, MOONS.log_prob, plane(CODES_LIMIT)))
            found["dual"] = np.array(both_kl(flow))
    return found


# --- A posterior that is known ----------------------------------------------------------------------------

POSTERIOR_LIMIT = 5.0
WIDE, WIDE_POINTS = 18.0, 601  # of the gaps: at z_1 = 4 the parabola is at -14.5
STARTS = {"first": [0.0], "second": [-1.0, 1.0], "four": [0.0]}  # means of z_1: its arms


def log_joint(z: Tensor) -> Tensor:
    """Return log p(z) + log p(x | z) in nats of lecture 5's model, x = SEEN, (B, 2) to (B,)."""
    return -banana(z)


class Affine(nn.Module):
    """Scale and shift each code: a factorised normal when it follows normal noise."""

    def __init__(self, d: int):
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map base noise to codes."""
        return self.shift + self.log_scale.exp() * z, self.log_scale.sum().expand(len(z))

    def inverse(self, z: Tensor) -> Tensor:
        """Map codes to base noise."""
        return (z - self.shift) * (-self.log_scale).exp()


def posterior_flow(orders: list[list[int]]) -> nn.Module:
    """Return a flow whose `forward` maps base noise to codes: a factorised normal, then IAF layers."""
    networks = [S6.GaussianMADE(2, [64, 64], torch.tensor(order)) for order in orders]
    return S6.Flow([Affine(2), *map(S6.MAF, networks)])  # read as IAF: one pass from noise to codes


def negative_elbo(flow: nn.Module, base: Tensor) -> Tensor:
    """Return -ELBO in nats from base noise (B, 2): log q(z_T) = log q(z_0) - log_det, prior at z_T."""
    z, log_det = flow(base)
    log_q = torch.distributions.Normal(0.0, 1.0).log_prob(base).sum(dim=1) - log_det
    return (log_q - log_joint(z)).mean()


POSTERIORS = {"first": [[0, 1]], "second": [[1, 0]], "four": [[0, 1], [1, 0]] * 2}


def log_density(flow: nn.Module, z: Tensor) -> Tensor:
    """Return log q of codes under a posterior flow, nats, (B,)."""
    base = flow.inverse(z)
    return torch.distributions.Normal(0.0, 1.0).log_prob(base).sum(dim=1) - flow(base)[1]


def gap(flow: nn.Module) -> float:
    """Return KL(q || posterior) in nats, by a window that holds the arms of the parabola."""
    z = plane(WIDE, WIDE_POINTS)
    log_q, log_p = log_density(flow, z), log_joint(z)
    log_p = log_p - torch.logsumexp(log_p, 0) - np.log(cell(WIDE, WIDE_POINTS))
    return ((log_q.exp() * (log_q - log_p)).sum() * cell(WIDE, WIDE_POINTS)).item()


@torch.no_grad()
def posteriors() -> dict[str, np.ndarray]:
    """Fit IAF layers to the known posterior by reverse KL, "second" from both arms: the middle is a trap.

    Returns log q on the grid of the figure, and the gaps, in nats.
    """
    found, gaps = {}, []
    for name, orders in POSTERIORS.items():
        runs = []
        for start in STARTS[name]:
            torch.manual_seed(0)
            flow = posterior_flow(orders)
            flow.layers[0].shift[0] = start
            with torch.enable_grad():
                flow = fit(lambda flow=flow: negative_elbo(flow, torch.randn(BATCH, 2)), flow, 3000)
            runs.append((gap(flow), flow))
        best, flow = min(runs, key=lambda run: run[0])
        print(f"  {name}: {[round(value, 4) for value, _ in runs]}", flush=True)
        gaps.append(best)
        found[f"posterior_{name}"] = kept(log_density(flow, plane(POSTERIOR_LIMIT)))
    return found | {"posterior_gaps": np.array(gaps)}


# --- Digits, 8 x 8, 16 levels -----------------------------------------------------------------------------

LEVELS, M = 16, 64
WIDTHS, LAYERS, DIGIT_BATCH = [192, 192], 5, 128  # as the MAF that ships
SHIPPED_BOUND = 1.0  # of its log-scales: with 2, single test digits cost 200 bits/dim (seminar 6)
DIGIT_STEPS, STUDENT_STEPS = 3000, 3000
TEACHER_SAMPLES = 2000  # each costs 320 passes to draw, and 320 to score under the student
NOISES = 8  # draws of the noise behind the MAF's bits/dim


def small(split: str) -> Tensor:
    """Return the digits of a split at 8 x 8 and 16 levels, uint8 (N, 64)."""
    return S5.small_digits(getattr(data.load_images("mnist"), split).images).flatten(1)


def unit_flow(bound: float = SHIPPED_BOUND) -> nn.Module:
    """Return a flow of images in [0, 1]: logit, then layers in alternating orders; by default as it ships."""
    return S6.Flow([S5.Logit(), S5.ActNorm(M), *stack(S6.MAF, M, WIDTHS, LAYERS, bound)])


def shown(images: Tensor, noise: bool) -> Tensor:
    """Return what a flow is shown, in [0, 1]: levels with fresh uniform noise, or the middle of each cell."""
    return data.dequantize(images, levels=LEVELS) if noise else (images.float() + 0.5) / LEVELS


def claimed_bits(flow: nn.Module, images: Tensor, noise: bool) -> Tensor:
    """Return bits/dim, (N,), that a flow of [0, 1] claims for dequantized or, without noise, raw images."""
    y = shown(images, noise)
    with torch.no_grad():
        nats = torch.cat([flow.log_prob(part) for part in y.split(1000)])
    return metrics.bits_per_dim(-nats, M, levels=LEVELS)


def pixels(unit: Tensor) -> Tensor:
    """Return samples in [0, 1] as the levels of their cells over the highest, (n, 64)."""
    return (unit.clamp(0, 1 - 1e-6) * LEVELS).floor() / (LEVELS - 1)


def train_digits(noise: bool) -> tuple[nn.Module, np.ndarray]:
    """Train on dequantized or on raw digits.

    Returns the flow, and every 100 steps what it claims in bits/dim: (step, test digits, training digits).
    """
    torch.manual_seed(0)
    # Free scales: a tight bound slows the fall of the bits that this shows.
    flow, images, test = unit_flow(bound=2.0), small("train"), small("test")

    def loss(batch: Tensor) -> dict[str, Tensor]:
        return {"loss": -flow.log_prob(shown(batch, noise)).mean()}

    S5.initialise(flow, data.dequantize(images[:1000], levels=LEVELS))
    step, trace = train.one_cycle(loss, flow, 2e-3, DIGIT_STEPS, clip=1.0), []
    for number in range(1, DIGIT_STEPS + 1):
        step(images[torch.randint(len(images), (DIGIT_BATCH,))])
        if number % 100 == 0:
            claims = [claimed_bits(flow, part, noise).mean() for part in (test, images[: len(test)])]
            trace.append([number, *claims])
    print(f"  noise {noise}: {trace[-1]}", flush=True)
    return flow.eval(), np.array(trace)


def student_sample(student: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Map noise to logits in one pass of each IAF layer; return them and their log-density, nats."""
    scales, layers = student.layers[0], student.layers[:0:-1]  # from the noise
    log_q = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    for layer in layers:
        z, log_det = layer.maf(z)
        log_q = log_q - log_det
    x = scales.inverse(z)
    return x, log_q + scales(x)[1]


def with_error(values: Tensor) -> list[float]:
    """Return mean, standard error and median."""
    return [*mean_and_error(values).tolist(), values.median().item()]


def distil(teacher: nn.Module) -> tuple[nn.Module, list[float]]:
    """Train an IAF by KL(student || teacher) in logit space; no digit is shown to it.

    Returns the student, a flow of images, and log q - log p in nats of 10,000 fresh samples of it: mean
    (that KL), standard error, median.
    """
    torch.manual_seed(1)
    logit, inside = teacher.layers[0], S6.Flow(teacher.layers[1:]).requires_grad_(False)
    # The student keeps the teacher's first scales, which are frozen.
    student = S6.Flow([teacher.layers[1], *stack(S6.IAF, M, WIDTHS, LAYERS, SHIPPED_BOUND)])

    def log_ratio(n: int) -> Tensor:
        x, log_q = student_sample(student, torch.randn(n, M))
        return log_q - inside.log_prob(x)

    step = train.one_cycle(lambda n: {"loss": log_ratio(n).mean()}, student, 1e-3, STUDENT_STEPS, clip=1.0)
    for _ in range(STUDENT_STEPS):
        step(DIGIT_BATCH)
    with torch.no_grad():
        kl = with_error(log_ratio(10_000))
    print(f"  KL(student, teacher) {kl} nats", flush=True)
    return S6.Flow([logit, *student.layers]).eval(), kl


@torch.no_grad()
def not_forgiven(teacher: nn.Module, student: nn.Module) -> list[float]:
    """Return log p - log q in nats of samples of the teacher: mean (KL(teacher, student)), error, median."""
    p, q = copy.deepcopy(teacher).double(), copy.deepcopy(student).double()
    y = p.inverse(torch.randn(TEACHER_SAMPLES, M, dtype=torch.float64))
    return with_error(p.log_prob(y) - q.log_prob(y))


def noises() -> dict[str, np.ndarray]:
    """Train a MAF with noise and one without; return what they claim on the way, and samples."""
    found = {}
    for name, noise in (("noise", True), ("raw", False)):
        flow, trace = train_digits(noise)
        found |= {f"{name}_trace": trace, f"{name}_samples": pixels(flow.sample(12, M)).numpy()}
    return found


def digits() -> dict[str, np.ndarray]:
    """Distil a student from the MAF that ships; return bits/dim and samples of both, and baselines."""
    test, teacher = small("test"), weights.load(unit_flow(), "seminar6-maf").eval()
    student, kl = distil(teacher)
    torch.manual_seed(2)
    # One test digit in 10,000 has a tail: what it costs depends on its noise, and the mean on that digit.
    bits = torch.stack([claimed_bits(teacher, test, noise=True) for _ in range(NOISES)]).mean(dim=0)
    own = claimed_bits(student, test, noise=True)
    print(f"  MAF {bits.mean():.4f}, student {own.mean():.4f} bits/dim", flush=True)
    known = torch.cat([small("train"), small("valid")])
    torch.manual_seed(3)
    drawn = {"digits_maf": teacher.sample(12, M), "digits_student": student.sample(12, M)}
    backwards = not_forgiven(teacher, student)
    print(f"  KL(teacher, student) {backwards} nats", flush=True)
    return {
        "digits_test": (test[:12] / (LEVELS - 1)).numpy(),
        **{name: pixels(unit).numpy() for name, unit in drawn.items()},
        "maf_bits": np.array([*with_error(bits), bits.max()]),
        "student_bits": np.array(with_error(own)),
        "student_loss": np.array(with_error((own - bits) * M * np.log(2))),  # nats of a test digit
        "student_kl": np.array(kl),
        "teacher_kl": np.array(backwards),
        "baseline_bits": np.array(list(S5.baselines(known, test, LEVELS).values())),
    }


PARTS = {"moons": moons, "posteriors": posteriors, "noises": noises, "digits": digits}


def main(names: list[str]) -> None:
    """Train the named parts, all when none is named, and store them beside what is there."""
    arrays = dict(np.load(STORED)) if STORED.exists() else {}
    for name in names or PARTS:
        print(name, flush=True)
        arrays |= PARTS[name]()
        single = {key: value.astype(np.float32) if value.ndim else value for key, value in arrays.items()}
        np.savez_compressed(STORED, **single)


if __name__ == "__main__":
    main(sys.argv[1:])
