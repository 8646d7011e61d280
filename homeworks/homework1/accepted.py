"""Other right ways to answer homework 1: none may be refused, by visible or by hidden checks.

`ACCEPTED` maps a question to sources of its answer cell.
"""

ACCEPTED = {
    "q1a": [
        """
def bin_index(x, low, high, n_bins):
    if ((x < low) | (x > high)).any():
        raise ValueError("outside")
    return torch.bucketize(x, torch.linspace(low, high, n_bins + 1, dtype=x.dtype)[1:-1], right=True)
""",
        """
def bin_index(x, low, high, n_bins):
    index = []
    for value in x.tolist():
        if not low <= value <= high:
            raise ValueError(value)
        index.append(min(int((value - low) / ((high - low) / n_bins)), n_bins - 1))
    return torch.tensor(index)
""",
    ],
    "q1b": [
        """
def nll_and_gradient(theta, first, last):
    value, gradient = 0, torch.zeros_like(theta)
    for a, b in zip(first.tolist(), last.tolist()):
        value = value + theta.logsumexp(0) - theta[a : b + 1].logsumexp(0)
        gradient += theta.softmax(0)
        gradient[a : b + 1] -= theta[a : b + 1].softmax(0)
    return value / len(first), gradient / len(first)
""",
        """
def nll_and_gradient(theta, first, last):
    log_p = theta.double().log_softmax(0)
    place = torch.arange(len(theta)).expand(len(first), -1)
    outside = (place < first.unsqueeze(1)) | (place > last.unsqueeze(1))
    log_mass = log_p.expand_as(place).masked_fill(outside, -math.inf).logsumexp(1, keepdim=True)
    posterior = (log_p - log_mass).masked_fill(outside, -math.inf).exp()
    return -log_mass.mean().to(theta.dtype), (log_p.exp() - posterior.mean(0)).to(theta.dtype)
""",
    ],
    "q1c": [
        """
def fit_histogram(first, last, n_bins, nll_and_gradient, *, steps, batch_size, learning_rate, generator):
    theta, history, left = torch.zeros(n_bins), torch.empty(steps), torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(left) < batch_size:
            left = torch.randperm(len(first), generator=generator)
        batch, left = left[:batch_size], left[batch_size:]
        history[step], gradient = nll_and_gradient(theta, first[batch], last[batch])
        theta -= learning_rate * gradient
    return theta, history
""",
        """
def fit_histogram(first, last, n_bins, nll_and_gradient, *, steps, batch_size, learning_rate, generator):
    theta, history = torch.zeros(n_bins), []
    for step in range(steps):
        batch = torch.randperm(len(first), generator=generator)[:batch_size]
        value, gradient = nll_and_gradient(theta, first[batch], last[batch])
        history.append(float(value))
        theta = theta - learning_rate * (1 - step / steps) * gradient
    return theta, torch.tensor(history)
""",
        """
def fit_histogram(first, last, n_bins, nll_and_gradient, *, steps, batch_size, learning_rate, generator):
    theta = nn.Parameter(torch.zeros(n_bins))
    optimizer, history = torch.optim.SGD([theta], lr=learning_rate), torch.zeros(steps)
    for step in range(steps):  # value and gradient in two calls
        some = torch.multinomial(torch.ones(len(first)), batch_size, generator=generator)
        history[step] = nll_and_gradient(theta.detach(), first[some], last[some])[0]
        theta.grad = nll_and_gradient(theta.detach(), first[some], last[some])[1]
        optimizer.step()
    return theta.detach(), history
""",
    ],
    "q2a": [
        """
def made_masks(order, n_in, n_out, hidden_sizes, context):
    # Units know the first and the last coordinate that they hear, [f, a]; they serve a + 1 to f + c.
    m = len(order)
    rank = torch.empty(m, dtype=torch.int64)
    rank[order] = torch.arange(m)
    spans = [(f, a) for a in range(m - 1) for f in range(max(0, a - context + 1), a + 1)]
    below = torch.stack([rank, rank], 1).repeat_interleave(n_in, 0)
    masks = []
    for size in hidden_sizes:
        above = torch.tensor([spans[k % len(spans)] for k in range(size)])
        masks.append((above[:, None, 0] <= below[:, 0]) & (above[:, None, 1] >= below[:, 1]))
        below = above
    served = rank.repeat_interleave(n_out)[:, None]
    return masks + [(served > below[:, 1]) & (served <= below[:, 0] + context)]
""",
        """
def made_masks(order, n_in, n_out, hidden_sizes, context):
    # Every hidden unit hears one coordinate alone, and tells those that come soon after it.
    order, masks = order.tolist(), []
    below = [order.index(i) for i in range(len(order)) for _ in range(n_in)]
    for size in hidden_sizes:
        above = torch.randint(len(order) - 1, (size,)).tolist()
        masks.append(torch.tensor([[b == a for b in below] for a in above]))
        below = above
    served = [order.index(i) for i in range(len(order)) for _ in range(n_out)]
    return [*masks, torch.tensor([[0 < s - b <= context for b in below] for s in served])]
""",
        """
def made_masks(order, n_in, n_out, hidden_sizes, context):
    # Windows drawn at random, useless ones too: only (0, 0) reaches the second coordinate.
    rank = torch.argsort(order)
    low = high = rank.repeat_interleave(n_in)
    masks = []
    for size in hidden_sizes:
        window = torch.randint(len(order), (size, 2)).sort(1).values
        masks.append((window[:, :1] <= low) & (high <= window[:, 1:]))
        low, high = window.T
    served = rank.repeat_interleave(n_out)[:, None]
    return [*masks, (served - context <= low) & (high < served)]
""",
    ],
    "q2b": [
        """
class OrdinalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.masks, self.n_values = [mask.float() for mask in masks], n_values
        bounds = [mask.shape[1] ** -0.5 for mask in masks]  # those of nn.Linear
        self.weights = nn.ParameterList([torch.empty(m.shape).uniform_(-b, b) for m, b in zip(masks, bounds)])
        self.biases = nn.ParameterList([torch.empty(len(m)).uniform_(-b, b) for m, b in zip(masks, bounds)])
    def forward(self, x):
        h = torch.eye(self.n_values, dtype=self.weights[0].dtype)[x].reshape(len(x), -1)
        for mask, weight, bias in zip(self.masks[:-1], self.weights, self.biases):
            h = torch.relu(h @ (mask * weight).T + bias)
        h = h @ (self.masks[-1] * self.weights[-1]).T + self.biases[-1]
        left, log_p = 0, []
        for a in h.reshape(len(x), -1, self.n_values - 1).unbind(2):
            log_p.append(left - F.softplus(-a))
            left = left - F.softplus(a)
        return torch.stack([*log_p, left], 1)
    def log_prob(self, x):
        return torch.distributions.Categorical(logits=self(x).transpose(1, 2)).log_prob(x).sum(-1)
""",
        """
class OrdinalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.n_values, self.masks = n_values, masks
        for k, mask in enumerate(masks):
            bound = 1 / math.sqrt(mask.shape[1])
            self.register_parameter(f"weight{k}", nn.Parameter((2 * torch.rand(mask.T.shape) - 1) * bound))
            self.register_parameter(f"bias{k}", nn.Parameter((2 * torch.rand(1, len(mask)) - 1) * bound))
    def forward(self, x):
        h = F.one_hot(x, self.n_values).flatten(1).type_as(self.weight0)
        for k, mask in enumerate(self.masks):
            h = h.clamp(min=0) @ (getattr(self, f"weight{k}") * mask.T) + getattr(self, f"bias{k}")
        a = h.view(len(x), -1, self.n_values - 1)
        none = F.logsigmoid(-a).cumsum(-1)
        parts = F.logsigmoid(a[..., :1]), F.logsigmoid(a[..., 1:]) + none[..., :-1], none[..., -1:]
        return torch.cat(parts, -1).mT
    def log_prob(self, x):
        return torch.einsum("bvi,biv->b", self(x), F.one_hot(x, self.n_values).type_as(self.weight0))
""",
    ],
    "q2c": [
        """
def probability_table(log_probs, n_values):
    table = torch.zeros(n_values, n_values, dtype=torch.float64)
    for a in range(n_values):
        for b in range(n_values):
            for log_prob in log_probs:
                table[a, b] += log_prob(torch.tensor([[a, b]])).detach().double().exp()[0] / len(log_probs)
    return table
""",
        """
@torch.no_grad()
def probability_table(log_probs, n_values):
    values = torch.arange(n_values)
    grid = torch.stack(torch.meshgrid(values, values, indexing="ij"), -1).reshape(-1, 2)
    logs = torch.stack([log_prob(grid) for log_prob in log_probs]).logsumexp(0) - math.log(len(log_probs))
    return logs.exp().unflatten(0, (n_values, n_values))
""",
    ],
    "q2d": [
        """
@torch.no_grad()
def sample(logits, order, n, n_values, generator):
    x = torch.randint(n_values, (n, len(order)), generator=generator)
    for i in order:
        gumbel = -(-torch.rand(n, n_values, generator=generator).clamp(min=1e-30).log()).log()
        x[:, i] = (logits(x)[:, :, i] + gumbel).argmax(1)
    return x
""",
        """
def sample(logits, order, n, n_values, generator):
    x = torch.full((n, len(order)), n_values - 1)
    for i in order.tolist():
        cumulative = logits(x).double().softmax(1)[..., i].cumsum(1)
        u = torch.rand(n, 1, generator=generator, dtype=torch.float64)
        x[:, i] = (u > cumulative).sum(1).clamp(max=n_values - 1)
    return x
""",
    ],
    "q3a": [
        """
def fewest_steps(sees):
    step, left, t = torch.full((len(sees),), -1), torch.ones(len(sees), dtype=torch.bool), 0
    while left.any():
        now = left & ~(sees & left).any(1)
        if not now.any():
            raise ValueError("a circle")
        step[now], left, t = t, left & ~now, t + 1
    return step
""",
        """
def fewest_steps(sees):
    import graphlib

    sorter = graphlib.TopologicalSorter({i: row.nonzero().flatten().tolist() for i, row in enumerate(sees)})
    sorter.prepare()  # its CycleError is a ValueError
    step, t = torch.zeros(len(sees), dtype=torch.int64), 0
    while sorter.is_active():
        ready = sorter.get_ready()
        step[list(ready)] = t
        sorter.done(*ready)
        t += 1
    return step
""",
    ],
    "q3b": [
        """
def nll_by_step(logits, x, step):
    log_p = torch.where(x == 1, F.logsigmoid(logits), F.logsigmoid(-logits))
    return torch.stack([-log_p[:, step == t].sum(1).mean() for t in range(step.max() + 1)])
""",
        """
def nll_by_step(logits, x, step):
    terms = F.softplus(logits.double()) - x * logits
    return (terms @ F.one_hot(step).double()).mean(0)
""",
    ],
    "q3c": [
        """
@torch.no_grad()
def complete(logits, x, step, n_known, generator):
    x = torch.where(step < n_known, x, 0.0)
    for t in range(n_known, int(step.max()) + 1):
        p = torch.sigmoid(logits(x))
        x = torch.where(step == t, (torch.rand(x.shape, generator=generator) < p).to(x.dtype), x)
    return x
""",
    ],
}
