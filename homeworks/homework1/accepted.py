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
        theta = theta - learning_rate / (1 + 3 * step / steps) * gradient
    return theta, torch.tensor(history)
""",
    ],
    "q2a": [
        """
def made_masks(order, n_values, hidden_sizes):
    m = len(order)
    rank = torch.empty(m, dtype=torch.int64)
    rank[order] = torch.arange(m)
    degrees = [rank + 1, *(torch.randint(1, m, (size,)) for size in hidden_sizes)]
    masks = [above[:, None] >= below for below, above in zip(degrees, degrees[1:])]
    masks[0] = masks[0].repeat_interleave(n_values, dim=1)
    return masks + [(rank[:, None] + 1 > degrees[-1]).repeat_interleave(n_values, dim=0)]
""",
        """
def made_masks(order, n_values, hidden_sizes):
    order, masks = order.tolist(), []
    units = [order.index(i) for i in range(len(order)) for _ in range(n_values)]
    below = units
    for size in hidden_sizes:
        above = [k * (len(order) - 1) // size for k in range(size)]
        masks.append(torch.tensor([[b <= a for b in below] for a in above]))
        below = above
    return tuple(masks) + (torch.tensor([[b < a for b in below] for a in units]),)
""",
    ],
    "q2b": [
        """
class CategoricalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.masks, self.n_values = [mask.float() for mask in masks], n_values
        self.m = masks[-1].shape[0] // n_values
        self.weights = nn.ParameterList([torch.randn(mask.shape) / mask.shape[1] ** 0.5 for mask in masks])
        self.biases = nn.ParameterList([torch.zeros(len(mask)) for mask in masks])
    def forward(self, x):
        h = torch.eye(self.n_values, dtype=self.weights[0].dtype)[x].reshape(len(x), -1)
        for mask, weight, bias in zip(self.masks[:-1], self.weights, self.biases):
            h = torch.relu(h @ (mask * weight).T + bias)
        h = h @ (self.masks[-1] * self.weights[-1]).T + self.biases[-1]
        return h.reshape(len(x), self.m, self.n_values).permute(0, 2, 1)
    def log_prob(self, x):
        return torch.distributions.Categorical(logits=self(x).transpose(1, 2)).log_prob(x).sum(-1)
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
def step_masks(step, hidden_sizes):
    last = step.max().item()
    one, two = (torch.linspace(0, last - 1, size).round() for size in hidden_sizes)
    hidden = [one[:, None] >= step[None], two[:, None] >= one[None]]
    return [*hidden, step[:, None] > two[None], step[:, None] > step[None]]
""",
        """
def step_masks(step, hidden_sizes):
    last = int(step.max())
    every = torch.arange(1, last + 1)
    one, two = (torch.cat([every, torch.randint(1, last + 1, (size - last,))]) for size in hidden_sizes)
    rank = step + 1
    return one[:, None] >= rank, two[:, None] >= one, rank[:, None] > two, rank[:, None] > rank
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
