"""Every exercise of every seminar: blank it says so, the published solution is right, wrong answers are not.

An exercise is a code cell tagged `exercise`, the cell after it judges, and the next cell tagged `answer`
holds the solution as its only `python` block. A wrong answer is the solution with one piece replaced.
"""

import contextlib
import io
import re
from functools import cache
from typing import NamedTuple

import pytest
import torch

from dgm_utils import checks
from tools import definitions, notebooks
from tools.notebooks import ROOT

WRONG = {
    # ---- seminar 1
    "unbiased_theta": [
        ("(len(x) + 1) / len(x) * x.max()", "x.max()"),
        ("(len(x) + 1) / len(x)", "len(x) / (len(x) + 1)"),
        ("(len(x) + 1) / len(x) * x.max()", "x.mean()"),
        ("len(x) + 1", "len(x) + 2"),
        ("return", "estimate ="),
    ],
    "mask_between": [
        (">=", ">"),
        (">=", "<="),
        ("second[:, None] >= first", "first[:, None] >= second"),
        ("second[:, None] >= first", "torch.ones(len(second), len(first))"),
    ],
    "left_to_right": [
        (".T", ""),
        (".flatten()", ".flatten().flip(0)"),
        ("torch.arange(height * width).view(height, width).T", "torch.arange(width)"),
        (".T.flatten()", ".T.flatten() // 2 * 2"),
    ],
    "my_dilations": [
        ("range(10)", "range(11)"),
        ("range(10)", "range(9)"),
        ("2**layer", "3**layer"),
        ("[2**layer for layer in range(10)]", "1024"),
    ],
    # ---- seminar 2
    "middle": [
        ('if mask == "A" else', 'if mask == "C" else'),
        ('if mask == "A" else', 'if mask != "C" else'),
        ("target, source = ", "source, target = "),
        (
            'target > source if mask == "A" else target >= source',
            'torch.ones(out_channels, in_channels).tril(-1 if mask == "A" else 0)',
        ),
    ],
    "draw_grey": [
        (".clamp(0, 255)", ""),
        (".round()", ".floor()"),
        (".round()", ""),
        ("torch.logit(u)", "torch.log(u)"),
        (".clamp(0, 255)", " % 256"),
    ],
    "my_e_step": [
        ("mixture.weights.log() + ", ""),
        ("dim=1", "dim=0"),
        (".softmax", ".log_softmax"),
        ("log_joint.softmax(dim=1)", "F.one_hot(log_joint.argmax(dim=1), 3).double()"),
        ("log_joint.softmax(dim=1)", "mixture.weights.expand(len(x), -1)"),
        ("return log_joint.softmax(dim=1)", "return (p := log_joint.exp()) / p.sum(dim=1, keepdim=True)"),
        (".softmax(dim=1)", ".softmax(dim=1) * 0.999"),
    ],
    "responsibilities": [
        ("weights.log()", "torch.zeros(3)"),
        (" + (1 - x) @ (1 - means).log().T", ""),
        (".softmax(dim=1)", ".softmax(dim=1).T"),
        (".softmax(dim=1)", ".log_softmax(dim=1)"),
        (
            "return (weights.log() + log_p).softmax(dim=1)",
            "return (p := weights * log_p.exp()) / p.sum(dim=1, keepdim=True)",
        ),
    ],
    # ---- seminar 3
    "fill": [
        ("model.W @ z + model.mean", "model.W @ z"),
        ("x[seen][None]", "x[seen][None] - model.mean[seen]"),
        ("torch.where(seen, x, model.W @ z + model.mean)", "model.W @ z + model.mean"),
    ],
    "draw_logistic": [
        ("scale * torch.logit(u)", "scale**2 * torch.logit(u)"),
        ("torch.logit(u)", "torch.erfinv(2 * u - 1)"),
        ("mean + scale *", "mean.detach() + scale *"),
        ("mean + scale *", "mean + scale.detach() *"),
    ],
    "gaussian_kl": [
        (".sum(dim=-1) / 2", ".sum(dim=-1)"),
        (".sum(dim=-1)", ".mean(dim=-1)"),
        ("/ std_p**2", "/ std_q**2"),
        ("2 * (std_p / std_q)", "(std_p / std_q)"),
        ("std_p / std_q", "std_q / std_p"),
    ],
    "elbo": [
        ("std * torch.randn_like", "std**2 * torch.randn_like"),
        ("mean + std * torch.randn_like(std)", "mean"),
        ("std * torch.randn_like(std)", "torch.randn_like(std)"),
        ("mean + std * torch.randn_like(std)", "(mean + std * torch.randn_like(std)).detach()"),
        (".sum(dim=1) / 2", ".sum(dim=1)"),
        (".sum(dim=1) / 2", ".mean(dim=1) / 2"),
        (".sum(dim=1) / 2", ".sum() / 2"),
        ("- 2 * std.log()", "- std.log()"),
        ("model.log_likelihood(x, z), kl", "model.log_likelihood(x, z), -kl"),
        ("model.log_likelihood(x, z), kl", "model.log_likelihood(x, z) - kl"),
        ("model.log_likelihood(x, z), kl", "model.log_likelihood(x, z) / x.shape[1], kl"),
    ],
    # ---- seminar 4
    "best_pair": [
        ("mu[:2] - torch.linalg.solve(block, tie * (z3 - mu[2]))", "mu[:2]"),
        ("block.inverse()", "precision.inverse()[:2, :2]"),
    ],
    "best_cover": [
        (" + (means - mean) ** 2", ""),
        (".sum().sqrt()", ".sum()"),
    ],
    "stretch": [
        (".sum(dim=1)", ""),
        (".sum(dim=1)", ".mean(dim=1)"),
        (".sum(dim=1)", ".sum()"),
        ("x.cosh()", "1 / x.cosh()"),
        ("x.cosh()", "x.sinh().abs()"),
        ("torch.sinh(x)", "x.asinh()"),
    ],
    "my_reverse_kl": [
        ("model.log_prob(x) + energy(x)", "energy(x)"),
        ("model.log_prob(x) + energy(x)", "model.log_prob(x) - energy(x)"),
        ("model.log_prob(x) + energy(x)", "energy(x) - model.log_prob(x)"),
        ("model.log_prob(x) + energy(x)", "model.log_prob(z) + energy(z)"),
        ("model.inverse(z)", "model.inverse(z).detach()"),
        (".mean()", ".sum()"),
        (".mean()", ""),
    ],
    "logit_log_det": [
        ("-(F.", "(F."),
        ("(F.logsigmoid(z) + F.logsigmoid(-z))", "(torch.sigmoid(z) * torch.sigmoid(-z)).log()"),
        (".sum(dim=1)", ".mean(dim=1)"),
    ],
    # ---- seminar 5
    "my_coupling": [
        ("2 * torch.tanh(raw / 2)", "raw"),
        ("log_scale.exp() + shift", "(-log_scale).exp() + shift"),
        ("* log_scale.exp() + shift", "* log_scale.exp() - shift"),
        ("x[:, ~mask] * log_scale.exp() + shift", "(x[:, ~mask] + shift) * log_scale.exp()"),
        ("z = x.clone()", "z = x"),
        (
            "z[:, ~mask] = x[:, ~mask] * log_scale.exp() + shift\n",
            "z[:, 3:] = x[:, ~mask] * log_scale.exp() + shift\n",
        ),
        (".sum(dim=1)", ".sum()"),
        (".sum(dim=1)", ".mean(dim=1)"),
        ("return z, log_scale", "return z, -log_scale"),
        ("raw, shift =", "shift, raw ="),
        ("return z, log_scale.sum(dim=1)", "return z, 2 * log_scale.sum(dim=1)"),
        ("return z, log_scale.sum(dim=1)", "return z, log_scale.detach().sum(dim=1)"),
        ("network(x[:, mask])", "network(x[:, mask]).detach()"),
        ("z[:, ~mask] =", "z[:, [0, 3, 5, 6]] ="),
    ],
    "mixing_log_det": [
        ("height * width * ", ""),
        ("height * width", "height"),
        ("torch.linalg.slogdet(weight).logabsdet", "weight.det().abs().log()"),
        ("torch.linalg.slogdet(weight).logabsdet", "weight.double().det().abs().log().to(weight)"),
        ("torch.linalg.slogdet(weight).logabsdet", "torch.logdet(weight)"),
        ("torch.linalg.slogdet(weight).logabsdet", "torch.linalg.slogdet(weight).logabsdet.neg()"),
        (".expand(len(x))", ""),
    ],
    "my_log_weight": [
        ("log_joint(z)", "log_joint(z0)"),
        ("- log_q0 + log_det", "- log_q0 - log_det"),
        ("- log_q0 + log_det", "- log_q0"),
        ("- log_q0 + log_det", "+ log_q0 + log_det"),
        ("+ log_det", "+ log_det.sum()"),
        ("- log_q0", "- log_normal(z0)"),
        ("log_joint(z) - log_q0 + log_det", "torch.full((500,), -2.0)"),
    ],
    "radius_before": [
        ("half + (", "half - ("),
        ("after - alpha - beta", "after - alpha + beta"),
        ("alpha * after", "beta * after"),
    ],
    # ---- seminar 6
    "my_maf_inverse": [
        ("network.order.tolist()", "range(z.shape[1])"),
        ("network.order.tolist()", "torch.argsort(network.order).tolist()"),
        ("network.order.tolist()", "network.order.tolist()[::-1]"),
        ("log_scale[:, i].exp() * z", "(-log_scale[:, i]).exp() * z"),
        ("shift[:, i] + log_scale", "-shift[:, i] + log_scale"),
        ("network(x)", "network(z)"),
        ("torch.zeros_like(z)", "z.clone()[:, :3]"),
        ("return x", "return z"),
    ],
    "my_pushed_log_prob": [
        (" - flow(x)[1]", ""),
        (" - flow", " + flow"),
        ("flow.inverse(z)", "z"),
        ("flow.inverse(z)", "flow(z)[0]"),
        ("- flow(x)[1]", "- flow(x)[1].mean()"),
        ("- flow(x)[1]", "- flow(z)[1]"),
    ],
    "my_dequantize": [
        ("/ levels", "/ (levels - 1)"),
        ("(x + torch.rand(x.shape)) / levels", "x / (levels - 1) + torch.rand(x.shape) / levels"),
        ("torch.rand(x.shape)", "0.5 * torch.rand(x.shape)"),
        ("torch.rand(x.shape)", "0.5 + 0.1 * torch.randn(x.shape)"),
        ("torch.rand(x.shape)", "(0.5 + 0.2 * torch.randn(x.shape)).clamp(0, 0.999)"),
        ("torch.rand(x.shape)", "torch.rand(x.shape, generator=torch.Generator().manual_seed(0))"),
        ("torch.rand(x.shape)", "torch.rand(()).expand(x.shape)"),
        ("torch.rand(x.shape)", "torch.rand(x.shape) - 0.5"),
        ("x + torch.rand(x.shape)", "x + 0.5"),
        ("torch.rand(x.shape)", "(torch.rand(x.shape) + x % 2) / 2"),
        ("torch.rand(x.shape)", "torch.rand(x[: len(x) // 2].shape).repeat(2, 1)"),
    ],
    # ---- seminar 7
    "my_dequantized": [
        ("- log_q", "+ log_q"),
        (" - log_q", ""),
        ("m * math.log(levels)", "math.log(levels)"),
        ("math.log(levels)", "math.log2(levels)"),
        ("- m *", "+ m *"),
        ("math.log(levels)", "math.log(levels - 1)"),
        ("- log_q", "- log_q.mean(dim=0)"),
        ("log_p - m * math.log(levels) - log_q", "(log_p - m * math.log(levels) - log_q).mean(dim=0)"),
    ],
    "my_bound": [
        ("torch.logsumexp(log_w, dim=0)", "log_w.exp().sum(dim=0).log()"),
        (" - math.log(len(log_w))", ""),
        ("dim=0", "dim=1"),
        ("torch.logsumexp(log_w, dim=0) - math.log(len(log_w))", "log_w.mean(dim=0)"),
        ("len(log_w)", "log_w.shape[1]"),
        ("torch.logsumexp(log_w, dim=0)", "log_w.max(dim=0).values"),
        ("math.log(", "math.log2("),
        ("torch.logsumexp(log_w, dim=0)", "(log_w - log_w.max()).exp().sum(dim=0).log() + log_w.max()"),
        ("torch.logsumexp(log_w, dim=0)", "torch.logsumexp(log_w.detach(), dim=0)"),
    ],
    "my_shares": [
        (" ** 2", ""),
        (".detach()", ""),
        ("log_w.detach()", "(-log_w.detach())"),
        ("dim=0", "dim=1"),
        ("log_w.detach().softmax(dim=0)", "(w := log_w.detach().exp()) / w.sum(dim=0)"),
    ],
    "my_surgery": [
        ("dim=1", "dim=0"),
        (" - math.log(len(log_q))", ""),
        ("own - aggregate", "aggregate - own"),
        ("log_q.logsumexp(dim=1) - math.log(len(log_q))", "log_q.mean(dim=1)"),
        ("log_q.logsumexp(dim=1) - math.log(len(log_q))", "log_q.exp().mean(dim=1).log()"),
        ("log_q.diagonal()", "log_q[0]"),
        ("aggregate - log_prior", "own - log_prior"),
        ("(aggregate - log_prior).mean()", "(log_prior - aggregate).mean()"),
    ],
    # ---- seminar 8
    "my_vamp_log_prob": [
        ("(log_variance / 2).exp()", "log_variance.exp()"),
        ("log_w + ", ""),
        (".logsumexp(dim=1)", ".exp().sum(dim=1).log()"),
        (".logsumexp(dim=1)", ".exp().sum(dim=1).clamp(min=1e-100).log()"),
        ("(log_w + log_q).logsumexp(dim=1)", "((log_w + log_q).exp().sum(dim=1) + 1e-300).log()"),
        (".logsumexp(dim=1)", ".logsumexp(dim=1).detach()"),
        (".logsumexp(dim=1)", ".logsumexp(dim=0)"),
        ("(log_w + log_q).logsumexp(dim=1)", "(log_w.exp() * log_q).sum(dim=1)"),
        ("log_w + log_q", "log_w.exp() + log_q"),
        (".sum(dim=2)  # (B, C)", ".mean(dim=2)"),
        (
            "log_q = Normal(mean, std).log_prob(z[:, None]).sum(dim=2)  # (B, C)\n"
            "    return (log_w + log_q).logsumexp(dim=1)",
            "log_q = Normal(mean, std).log_prob(z[:, None])\n"
            "    return (log_w[:, None] + log_q).logsumexp(dim=1).sum(dim=1)",
        ),
        (
            "log_q = Normal(mean, std).log_prob(z[:, None]).sum(dim=2)  # (B, C)",
            "log_q = -((log_variance + (z[:, None] - mean) ** 2) / std**2 + 1.837877).sum(dim=2) / 2",
        ),
    ],
    "my_posterior_mean": [
        (" - grid[:, None] ** 2 / 2", ""),
        ("** 2 / 2", "** 2"),
        (".softmax(dim=0)", ".softmax(dim=1)"),
        ("grid @ log_joint.softmax(dim=0)", "grid[log_joint.argmax(dim=0)]"),
        ("grid @ log_joint.softmax(dim=0)", "grid @ log_joint.exp() / log_joint.exp().sum(dim=0)"),
        ("grid @ log_joint.softmax(dim=0)", "grid @ log_joint.exp()"),
        (
            "return grid @ log_joint.softmax(dim=0)",
            "weight = (log_joint - log_joint.max()).exp()\n    return grid @ weight / weight.sum(dim=0)",
        ),
        ("grid @ log_joint.softmax(dim=0)", "log_joint.softmax(dim=0)"),
    ],
    "my_free_bits": [
        ("kl.mean(dim=0).clamp(min=least).sum()", "kl.clamp(min=least).sum(dim=1).mean()"),
        ("kl.mean(dim=0).clamp(min=least).sum()", "kl.sum(dim=1).mean().clamp(min=least)"),
        ("kl.mean(dim=0).clamp(min=least).sum()", "(kl.mean(dim=0) - least).clamp(min=0).sum()"),
        ("min=least", "max=least"),
        ("kl.mean(dim=0)", "kl.sum(dim=0)"),
        ("kl.mean(dim=0)", "(kl.sum(dim=0) / 2)"),
        ("mean(dim=0)", "mean(dim=1)"),
        (".sum()", ".mean()"),
        (".sum()", ""),
    ],
    # ---- seminar 9
    "my_gap": [
        ("dim=0", "dim=1"),
        (" / entropy", ""),
        ("first - second", "second - first"),
        (".mean()", ".sum()"),
        (".mean()", ""),
        (".mean()", ".mean() * len(entropy) / 4"),
        ("(first - second) / entropy", "(first - second) / first"),
        ("((first - second) / entropy).mean()", "(first - second).sum() / entropy.sum()"),
        ("first, second = information", "first, _, second, *_ = information"),
        ("information.sort(dim=0, descending=True).values[:2]", "information[:2]"),
        ("((first - second) / entropy).mean()", "first.new_tensor(0.25)"),
    ],
    "my_dip_penalty": [
        ("correction=0", "correction=1"),
        ("std**2", "std"),
        ("torch.diag((std**2).mean(dim=0))", "(std**2).mean()"),
        ("torch.diag((std**2).mean(dim=0))", "(std**2).mean(dim=0)"),
        ("covariance + torch.diag", "covariance - torch.diag"),
        ('kind == "II"', 'kind == "I"'),
        ('kind == "II"', "True"),
        ('kind == "II"', "False"),
        ("variance - 1", "variance + 1"),
        (" - (variance**2).sum()", ""),
        ("off * others", "off * others / 2"),
        ("off * others", "off * others / 12"),
        ("off * others + diagonal", "diagonal * others + off"),
        ("+ diagonal *", "- diagonal *"),
        ("mean.T", "mean"),
        ("(std**2).mean(dim=0)", "(std**2).sum(dim=0) / 40"),
        ("torch.cov(mean.T, correction=0)", "mean.T @ mean / len(mean)"),
        ("(std**2)", "(std.detach() ** 2)"),
        ("covariance.diagonal()", "covariance.diagonal().detach()"),
        ("torch.cov(mean.T", 'torch.cov((mean.detach() if kind == "I" else mean).T'),
        ("torch.cov(mean.T", "torch.cov((mean - mean.mean(dim=0).detach()).detach().T"),
    ],
    "my_value": [
        ("width * parts.sum()", "-1.3862943611 + 0 * parts.sum()"),
        ("width * parts.sum()", "parts.mean()"),
        ("width * parts.sum()", "0.01 * parts.sum()"),
        ("width * parts.sum()", "width * parts.sum() / 2"),
        ("width * parts.sum()", "width * parts.sum() / math.log(2)"),
        ("width * parts.sum()", "(width * parts.sum() + math.log(4)) / 2"),
        ("width * parts.sum()", "-width * parts.sum()"),
        ("- torch.xlogy(pi + p, pi + p)", "+ torch.xlogy(pi + p, pi + p)"),
        (" + torch.xlogy(p, p)", ""),
        ("torch.xlogy(pi + p, pi + p)", "torch.xlogy(pi + p, (pi + p) / 2)"),
        ("torch.xlogy(pi, pi) + torch.xlogy(p, p)", "pi * pi.log() + p * p.log()"),
        ("torch.xlogy(p, p)", "torch.xlogy(pi, p)"),
        (  # 1 - D rounds to 0 where p is not
            "torch.xlogy(pi, pi) + torch.xlogy(p, p) - torch.xlogy(pi + p, pi + p)",
            "torch.xlogy(pi, pi / (pi + p + 1e-300)) + torch.xlogy(p, 1 - pi / (pi + p + 1e-300))",
        ),
    ],
    "my_generator_losses": [
        ("-F.softplus(fake).mean()", "F.softplus(fake).mean()"),
        ("F.softplus(-fake).mean()", "-F.softplus(-fake).mean()"),
        ("F.softplus(-fake).mean()", "F.softplus(fake).mean()"),
        ("-F.softplus(fake).mean(), F", "F.softplus(-fake).mean(), -F"),
        ("F.softplus(-fake).mean()", "-torch.log(torch.sigmoid(fake)).mean()"),
        ("F.softplus(-fake).mean()", "-torch.log(torch.sigmoid(fake) + 1e-8).mean()"),
        ("-F.softplus(fake).mean()", "torch.log(1 - torch.sigmoid(fake)).mean()"),
        ("F.softplus(-fake).mean()", "F.softplus(-fake).sum()"),
        ("F.softplus(-fake).mean()", "F.softplus(-fake).detach().mean()"),
        ("F.softplus(-fake).mean()", "F.softplus(-fake).mean() / 0.6931"),
        ("F.softplus(-fake).mean()", "F.relu(-fake).mean()"),
        (
            "-F.softplus(fake).mean(), F.softplus(-fake).mean()",
            "fake.new_tensor(-0.693147), fake.new_tensor(0.693147)",
        ),
    ],
    # ---- seminar 10
    "my_w1": [
        ("x.sort().values - y.sort().values", "x - y"),
        (".abs()", ""),
        (".mean()", ".sum()"),
        ("(x.sort().values - y.sort().values).abs().mean()", "(x.mean() - y.mean()).abs()"),
        ("(x.sort().values - y.sort().values).abs().mean()", "torch.tensor(1.5)"),
        (".abs().mean()", ".square().mean().sqrt()"),
        (".mean()", ".sum() / 40"),
    ],
    "my_lower_bound": [
        ("critic(x).mean() - critic(y).mean()", "critic(y).mean() - critic(x).mean()"),
        (" / steepest", ""),
        (" / steepest", " * steepest"),
        (".where(apart > 0, torch.inf)", ""),
        (".max()", ".mean()"),
        ("(critic(x).mean() - critic(y).mean()) / steepest", "torch.tensor(0.0)"),
        ("(critic(x).mean() - critic(y).mean())", "(critic(x).mean() - critic(y).mean()).abs()"),
        ("torch.cdist(points, points,", "torch.cdist(points, points, p=1,"),
        (  # only pairs of one x and one y
            "steepest = (rise / apart.where(apart > 0, torch.inf)).max()",
            "steepest = (rise / apart.where(apart > 0, torch.inf))[: len(x), len(x) :].max()",
        ),
    ],
    "my_critic_move": [
        ("critic(fake).mean() - critic(real).mean()", "critic(real).mean() - critic(fake).mean()"),
        ("return -loss.item()", "return loss.item()"),
        ("return -loss.item()", "return 1.0"),
        ("    optimizer.zero_grad()\n", ""),
        ("    optimizer.step()\n", ""),
        ("            parameter.clamp_(-c, c)", "            parameter.clamp(-c, c)"),
        ("            parameter.clamp_(-c, c)", "            parameter.clamp_(-0.4, 0.4)"),
        ("            parameter.clamp_(-c, c)", "            parameter.clamp_(0, c)"),
        ("-loss.item()", "(critic(real).mean() - critic(fake).mean()).item()"),
        ("-loss.item()", "-loss"),
        (  # of the means instead of the mean of the scores
            "critic(fake).mean() - critic(real).mean()",
            "critic(fake.mean(0, keepdim=True)).mean() - critic(real.mean(0, keepdim=True)).mean()",
        ),
        ("in critic.parameters()", "in critic[0].parameters()"),
        ("in critic.parameters()", "in list(critic.parameters())[-2:]"),
        (
            "    optimizer.step()\n",
            "    with torch.no_grad():\n        for group in optimizer.param_groups:\n"
            "            for p in group['params']:\n                p -= group['lr'] * p.grad\n",
        ),
    ],
    # ---- seminar 11
    "my_gradient_penalty": [
        ("gradient.flatten(1).norm(dim=1)", "gradient.norm(dim=1)"),
        ("gradient.flatten(1).norm(dim=1)", "gradient.norm(dim=(1, 2, 3))"),
        ("gradient.flatten(1).norm(dim=1)", "gradient.norm()"),
        ("gradient.flatten(1).norm(dim=1)", "gradient.flatten(1).square().sum(dim=1)"),
        (", create_graph=True", ""),
        ("norm(dim=1) - 1", "norm(dim=1)"),
        ("norm(dim=1) - 1", "norm(dim=1) + 1"),
        ("norm(dim=1) - 1)", "norm(dim=1) - 1).clamp(min=0)"),
        ("- 1) ** 2)", "- 1).abs())"),
        (".mean()", ".sum()"),
        (
            "torch.rand(len(real), *[1] * (real.ndim - 1)).to(real)",
            "torch.rand((), dtype=real.dtype)",
        ),
        ("torch.rand(len(real), *[1] * (real.ndim - 1)).to(real)", "torch.rand_like(real)"),
        (
            "torch.rand(len(real), *[1] * (real.ndim - 1)).to(real)",
            "torch.linspace(0, 1, len(real)).to(real).view(-1, *[1] * (real.ndim - 1))",
        ),
        (
            "torch.rand(len(real), *[1] * (real.ndim - 1))",
            "torch.rand(len(real), *[1] * (real.ndim - 1), generator=torch.Generator().manual_seed(0))",
        ),
        ("(real.ndim - 1)).to(real)", "(real.ndim - 1)).to(real) ** 1.15"),
        (".detach()", ""),
        ("(t * real + (1 - t) * fake)", "real.clone()"),
        ("(t * real + (1 - t) * fake)", "(t * real - (1 - t) * fake)"),
        ("critic(between).sum()", "critic(between).mean()"),
        ("return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()", "return 0 * gradient.sum()"),
    ],
    "my_neyman": [
        ("1 - (-v).exp()", "-(-v).exp()"),
        ("1 - (-v).exp()", "v"),
        ("1 - (-v).exp()", "1 - v.exp()"),
        ("1 - (-v).exp()", "1 + (-v).exp()"),
        ("1 - (-v).exp()", "1 - (-torch.sigmoid(v)).exp()"),
        ("1 - (-v).exp()", "torch.tanh(v)"),
        ("1 - (-v).exp()", "1 - (-v.clamp(min=-8)).exp()"),
        ("1 - (-v).exp()", "1 - (-v.clamp(-7.5, 8)).exp()"),
        ("2 - 2 * (1 - T).sqrt()", "torch.where(T < -999, -T, 2 - 2 * (1 - T).sqrt())"),
        ("2 - 2 * (1 - T).sqrt()", "torch.where(T > 0.9999, -7.0, 2 - 2 * (1 - T).sqrt())"),
        ("2 - 2 * (1 - T).sqrt()", "2.0005 - 2 * (1 - T).sqrt()"),
        ("2 - 2 * (1 - T).sqrt()", "2 - (1 - T).sqrt()"),
        ("2 - 2 * (1 - T).sqrt()", "2 + 2 * (1 - T).sqrt()"),
        ("2 - 2 * (1 - T).sqrt()", "-2 * (1 - T).sqrt()"),
        ("2 - 2 * (1 - T).sqrt()", "2 - 2 * (1 - T)"),
        ("2 - 2 * (1 - T).sqrt()", "T / (1 - T)"),
        ("2 - 2 * (1 - T).sqrt()", "0 * T"),
        ("return T, 2 - 2 * (1 - T).sqrt()", "return 2 - 2 * (1 - T).sqrt(), T"),
        ("return T, 2 - 2 * (1 - T).sqrt()", "return T.detach(), (2 - 2 * (1 - T).sqrt()).detach()"),
    ],
    "my_frechet": [
        ("root @ cov2 @ root", "cov1 @ cov2"),
        ("- 2 * overlap", "- overlap"),
        ("- 2 * overlap", "+ 2 * overlap"),
        (".clamp(min=0).sqrt().sum()", ".clamp(min=0).sum()"),
        (".square().sum()", ".norm()"),
        (".square().sum()", ".abs().sum()"),
        ("(mean1 - mean2)", "(mean1 + mean2)"),
        ("(mean1 - mean2).square().sum() + ", ""),
        (" + cov2.trace()", ""),
        ("values.clamp(min=0).sqrt())", "values)"),
        ("values.clamp(min=0).sqrt()", "values.sqrt()"),
        ("(root @ cov2 @ root).clamp(min=0)", "(root @ cov2 @ root)"),
        (
            "torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()",
            "(root @ cov2 @ root).trace().clamp(min=0).sqrt()",
        ),
        (
            "torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()",
            "(cov1.diagonal() * cov2.diagonal()).sqrt().sum()",
        ),
        ("return (mean1", "return 0 * (mean1"),
    ],
}
# Other right answers than the solution: a check must not ask for one form.
RIGHT = {
    "my_neyman": [
        ("1 - (-v).exp()", "1 - (-2 * v).exp()"),  # reaches 1, the edge, by rounding
        ("1 - (-v).exp()", "1 - torch.nn.functional.softplus(-v)"),
    ],
    "my_frechet": [
        (
            "torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()",
            "torch.linalg.eigvalsh(root @ cov2 @ root).abs().sqrt().sum()",
        ),
    ],
}
# What the cells that judge use of their notebook, apart from its definitions and imports.
AROUND = {
    "seminar4": {"DOUBLE": torch.float64, "line": torch.linspace(-24, 24, 961, dtype=torch.float64)},
    "seminar8": {"DOUBLE": torch.float64},
    "seminar9": {"DOUBLE": torch.float64},
    "seminar10": {"DOUBLE": torch.float64},
    "seminar11": {"DOUBLE": torch.float64},
}


class Exercise(NamedTuple):
    """Hold the sources of an exercise: the blank, the cell that judges, the solution."""

    seminar: str
    blank: str
    judge: str
    solution: str


def exercises():
    """Return every exercise by the name that it asks to define."""
    found = {}
    for path in notebooks.find_notebooks([ROOT / "seminars"]):
        cells = notebooks.read_notebook(path).cells
        for k, cell in enumerate(cells):
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "code" and "exercise" in tags:
                answer = next(c.source for c in cells[k:] if "answer" in c.metadata.get("tags", []))
                (solution,) = re.findall(r"```python\n(.*?)```", answer, re.DOTALL)
                name = re.match(r"def (\w+)|(\w+) =", cell.source)
                name = name[1] or name[2]
                assert name not in found, f"two exercises ask for {name}"
                found[name] = Exercise(path.stem, cell.source, cells[k + 1].source, solution)
    return found


EXERCISES = exercises()
load = cache(lambda seminar: vars(definitions.load(ROOT / f"seminars/{seminar}/{seminar}.ipynb")))


def verdict(exercise, answer):
    """Return what the notebook prints under an answer."""
    torch.manual_seed(0)
    namespace = load(exercise.seminar) | AROUND.get(exercise.seminar, {}) | {"judge": checks.judge}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(answer, namespace)
        exec(exercise.judge, namespace)
    return printed.getvalue().strip()


def test_every_exercise_has_wrong_answers():
    assert WRONG.keys() == EXERCISES.keys()
    for seminar in {exercise.seminar for exercise in EXERCISES.values()}:
        assert sum(exercise.seminar == seminar for exercise in EXERCISES.values()) >= 3


@pytest.mark.parametrize("name", EXERCISES)
def test_a_blank_and_the_solution_are_told_apart(name):
    assert verdict(EXERCISES[name], EXERCISES[name].blank) == "not answered yet"
    assert verdict(EXERCISES[name], EXERCISES[name].solution) == "right"


@pytest.mark.parametrize(("name", "other"), [(name, other) for name in RIGHT for other in RIGHT[name]])
def test_another_right_answer_is_called_right(name, other):
    assert EXERCISES[name].solution.count(other[0]) == 1
    assert verdict(EXERCISES[name], EXERCISES[name].solution.replace(*other)) == "right"


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in WRONG for wrong in WRONG[name]])
def test_a_wrong_answer_is_called_wrong(name, wrong):
    before, after = wrong
    assert EXERCISES[name].solution.count(before) == 1, (
        f"the solution of {name} does not hold {before!r} once"
    )
    said = verdict(EXERCISES[name], EXERCISES[name].solution.replace(before, after))
    assert re.match(r"not right: .", said), f"{name} with {after!r} in place of {before!r}: {said}"
