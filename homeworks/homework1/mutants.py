"""Wrong solutions of homework 1: each is the right one with one change, and must lose its own question only.

`MUTANTS` maps a name to the question, the answer cell, its source, and why a student might write it. The tag
`published` marks the best answer that can be put together from lectures, seminars, the visible cells of the
student version and the libraries, without an idea: it must lose at least half of the points.
"""

from pathlib import Path

from grading.mutants import changes_of

mutant = changes_of(Path(__file__).with_name("hw1.solution.ipynb"))

# What the tests cannot judge as a function: points that the best published answer earns, and why.
ELSEWHERE = {
    "q3d": (0, "Task 2's recipe on centred images: 119.8 nats where 105 are asked for, see hidden.py.")
}

BUCKETIZE = """# @answer q1a
def bin_index(x, low, high, n_bins):
    if x.min() < low or x.max() > high:
        raise ValueError
    return torch.bucketize(x, torch.linspace(low, high, n_bins + 1, dtype=x.dtype)) - 1
"""

AUTOGRAD = """# @answer q1b
def nll_and_gradient(theta, first, last):
    theta = theta.clone().requires_grad_()
    p = theta.softmax(0).cumsum(0)
    nll = -(p[last] - F.pad(p, (1, 0))[first]).log().mean()
    return nll.detach(), torch.autograd.grad(nll, theta)[0]
"""

WINDOW_ON_THE_FIRST_LAYER = """# @answer q2a
def made_masks(order, n_in, n_out, hidden_sizes, context):
    m = len(order)
    degree = torch.argsort(order) + 1
    inputs, outputs = degree.repeat_interleave(n_in), degree.repeat_interleave(n_out)
    masks, below = [], inputs
    for width in hidden_sizes:
        degrees = torch.linspace(1, m - 1, width).round()
        mask = degrees[:, None] >= below
        masks.append(mask & (degrees[:, None] - context < below) if below is inputs else mask)
        below = degrees
    return [*masks, outputs[:, None] > below]
"""

SOFTMAX = """# @answer q2b
class OrdinalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.n_values = n_values
        self.layers = nn.ModuleList(nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks)
        for k, mask in enumerate(masks):
            self.register_buffer(f"mask{k}", mask)

    def forward(self, x):
        h = F.one_hot(x, self.n_values).flatten(1).to(self.layers[0].weight.dtype)
        for k, layer in enumerate(self.layers):
            h = F.linear(h if k == 0 else F.relu(h), layer.weight * self.get_buffer(f"mask{k}"), layer.bias)
        return F.pad(h.unflatten(1, (-1, self.n_values - 1)), (0, 1)).transpose(1, 2).log_softmax(1)

    def log_prob(self, x):
        return -F.cross_entropy(self(x), x, reduction="none").sum(1)
"""

UNIFORM = """# @answer q2b
class OrdinalMADE(nn.Module):
    def __init__(self, masks, n_values):
        super().__init__()
        self.n_values, self.m = n_values, len(masks[-1]) // (n_values - 1)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.full((len(x), self.n_values, self.m), -math.log(self.n_values))

    def log_prob(self, x):
        return torch.full((len(x),), -self.m * math.log(self.n_values))
"""

ROWS_COUNTED = """# @answer q3a
def fewest_steps(sees):
    if (sees & sees.T).any():
        raise ValueError("pixels see each other")
    return torch.unique(sees.sum(1), return_inverse=True)[1]
"""

MUTANTS = {
    # ---- q1a
    "bucketize": {
        "question": "q1a",
        "cell": "q1a",
        "source": BUCKETIZE,
        "why": "One call of torch, whose bins hold their right edge.",
        "tag": "published",
    },
    "right_edge_opens_a_bin": mutant(
        "q1a", "clamp(max=n_bins - 1)", "clamp(max=n_bins)", "The largest number falls into a bin of its own."
    ),
    "bins_hold_their_right_edge": mutant(
        "q1a",
        ".floor().long()",
        ".ceil().long().sub(1).clamp(min=0)",
        "Edges belong to the bin at their left.",
    ),
    "bins_are_rounded": mutant("q1a", ".floor()", ".round()", "Off by one in the upper half of every bin."),
    "outside_is_clamped": mutant(
        "q1a", "x.min() < low or x.max() > high", "False", "Numbers outside the range count as the last bins."
    ),
    "index_of_another_type": mutant(
        "q1a", ".floor().long()", ".floor().int()", "int32 where int64 is asked."
    ),
    "below_is_not_refused": mutant(
        "q1a", "x.min() < low or x.max() > high", "x.max() > high", "Half of the refusal."
    ),
    "above_is_not_refused": mutant(
        "q1a", "x.min() < low or x.max() > high", "x.min() < low", "The other half."
    ),
    "numbers_shifted_in_place": mutant(
        "q1a", "((x - low) *", "(x.sub_(low) *", "The caller's numbers are overwritten."
    ),
    # ---- q1b
    "autograd": {
        "question": "q1b",
        "cell": "q1b",
        "source": AUTOGRAD,
        "why": "Seminar 1's histogram: autograd does not record here, and a difference of sums cancels.",
        "tag": "published",
    },
    "log_base_2": mutant(
        "q1b",
        "return nll.mean(), gradient",
        "return nll.mean() / math.log(2), gradient / math.log(2)",
        "Bits instead of nats, the gradient as well, so that differences agree.",
    ),
    "interval_without_its_end": mutant(
        "q1b",
        "(value <= last[:, None])",
        "((value < last[:, None]) | (value == first[:, None]))",
        "Python's ranges end before their end; readings of one bin hide it.",
    ),
    "sum_over_readings": mutant(
        "q1b",
        "return nll.mean(), gradient",
        "return nll.sum(), gradient * len(first)",
        "A sum where a mean is asked for.",
    ),
    "softmax_overflows": mutant(
        "q1b",
        "theta.logsumexp(0) - masked.logsumexp(1)",
        "theta.exp().sum().log() - masked.exp().sum(1).log()",
        "Exponentials of large logits are infinite.",
    ),
    "autograd_turned_on_again": mutant(
        "q1b",
        "    gradient = theta.softmax(0) - masked.softmax(1).mean(0)\n",
        "    with torch.inference_mode(False), torch.enable_grad():\n"
        "        leaf = theta.clone().requires_grad_()\n"
        "        loss = leaf.logsumexp(0) - torch.where(inside, leaf, -torch.inf).logsumexp(1).mean()\n"
        "        (gradient,) = torch.autograd.grad(loss, leaf)\n",
        "Left to autograd, which the check had turned off.",
    ),
    "gradient_by_jvp": mutant(
        "q1b",
        "    gradient = theta.softmax(0) - masked.softmax(1).mean(0)\n",
        "    with torch.inference_mode(False):\n"
        "        f = lambda t: t.logsumexp(0) - torch.where(inside, t, -torch.inf).logsumexp(1).mean()\n"
        "        units = torch.eye(len(theta), dtype=theta.dtype)\n"
        "        gradient = torch.stack([torch.func.jvp(f, (theta.clone(),), (e,))[1] for e in units])\n",
        "Left to torch's other way to derive.",
    ),
    "gradient_by_differences": mutant(
        "q1b",
        "    gradient = theta.softmax(0) - masked.softmax(1).mean(0)\n",
        "    f = lambda t: (t.logsumexp(0) - torch.where(inside, t, -torch.inf).logsumexp(1)).mean()\n"
        "    steps = 1e-4 * torch.eye(len(theta), dtype=torch.float64)\n"
        "    gradient = torch.stack([(f(theta + e) - f(theta - e)) / 2e-4 for e in steps]).to(theta.dtype)\n",
        "The value twice for every bin, instead of a derivation.",
    ),
    "gradient_in_double": mutant(
        "q1b",
        "return nll.mean(), gradient",
        "return nll.mean(), gradient.double()",
        "Another type than theta.",
    ),
    "value_of_one_entry": mutant(
        "q1b", "return nll.mean(), gradient", "return nll.mean()[None], gradient", "(1,) instead of ()."
    ),
    "logits_centred_in_place": mutant(
        "q1b",
        "    value = torch.arange(len(theta))\n",
        "    value = torch.arange(len(theta))\n    theta -= theta.max()\n",
        "The caller's logits are overwritten.",
    ),
    "readings_moved_in_place": mutant(
        "q1b",
        "    value = torch.arange(len(theta))\n",
        "    value = torch.arange(len(theta))\n    last += 1\n    last = last - 1\n",
        "Python's ends of ranges, written into the argument.",
    ),
    # ---- q1c
    "global_generator": mutant(
        "q1c",
        ", generator=generator)",
        ")",
        "Seminar 1's loop: batches from the global generator.",
        tag="published",
    ),
    "climbs": mutant(
        "q1c", "theta - learning_rate", "theta + learning_rate", "Ascends the negative log-likelihood."
    ),
    "always_the_first_batch": mutant(
        "q1c",
        "torch.randint(len(first), (batch_size,), generator=generator)",
        "torch.arange(batch_size)",
        "The data are never sampled.",
    ),
    "seed_fixed_inside_fit": mutant(
        "q1c",
        "generator=generator)",
        "generator=torch.Generator().manual_seed(len(history)))",
        "Two runs with different generators agree.",
    ),
    "value_after_the_step": mutant(
        "q1c",
        "history.append(value)",
        "history.append(nll_and_gradient(theta, first[batch], last[batch])[0])",
        "The history begins after the first step.",
    ),
    "all_readings_at_every_step": mutant(
        "q1c",
        "torch.randint(len(first), (batch_size,), generator=generator)",
        "torch.randperm(len(first), generator=generator)",
        "Full-batch descent, in another order at every step: only rounding depends on the generator.",
    ),
    "history_of_batches_beside_the_whole_data": mutant(
        "q1c",
        "theta - learning_rate * gradient",
        "theta - learning_rate * nll_and_gradient(theta, first, last)[1]",
        "Full-batch descent, whose history is that of batches.",
    ),
    "whole_data_in_pieces": mutant(
        "q1c",
        "theta - learning_rate * gradient",
        "theta - learning_rate * torch.stack(\n"
        "            [nll_and_gradient(theta, first[k : k + batch_size], last[k : k + batch_size])[1]\n"
        "             for k in range(0, len(first), batch_size)]\n"
        "        ).mean(0)",
        "The same, in calls that have the size of a batch.",
    ),
    "one_batch_for_all_steps": mutant(
        "q1c",
        "    theta, history = torch.zeros(n_bins), []\n",
        "    theta, history = torch.zeros(n_bins), []\n"
        "    chosen = torch.randint(len(first), (batch_size,), generator=generator)\n"
        "    first, last = first[chosen], last[chosen]\n",
        "The same readings again and again.",
    ),
    "batches_of_another_size": mutant(
        "q1c", "(batch_size,)", "(batch_size // 8,)", "Fewer readings than asked for."
    ),
    "starts_elsewhere": mutant(
        "q1c",
        "torch.zeros(n_bins)",
        "torch.ones(n_bins)",
        "The start matters where the function is no softmax.",
    ),
    "own_function": mutant(
        "q1c",
        "        value, gradient = nll_and_gradient(theta, first[batch], last[batch])\n",
        "        counts = F.one_hot(first[batch], n_bins).double().mean(0)\n"
        "        value = -(theta.log_softmax(0) * counts).sum()\n"
        "        gradient = (theta.softmax(0) - counts).float()\n",
        "The function that is passed in is not used.",
    ),
    "generator_started_again": mutant(
        "q1c",
        "    theta, history = torch.zeros(n_bins), []\n",
        "    theta, history = torch.zeros(n_bins), []\n"
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n",
        "A second run from one generator is the first again.",
    ),
    "readings_sorted_in_place": mutant(
        "q1c",
        "    theta, history = torch.zeros(n_bins), []\n",
        "    theta, history = torch.zeros(n_bins), []\n"
        "    first.copy_(first.sort()[0]), last.copy_(last.sort()[0])\n",
        "The caller's readings are overwritten.",
    ),
    # ---- q2a
    "window_on_the_first_layer": {
        "question": "q2a",
        "cell": "q2a",
        "source": WINDOW_ON_THE_FIRST_LAYER,
        "why": "Seminar 1's masks with a window on the inputs: higher layers pass on what is too old.",
        "tag": "published",
    },
    "last_mask_not_strict": mutant(
        "q2a", "(inputs < first)", "(inputs <= first)", "Every coordinate sees itself."
    ),
    "order_taken_for_rank": mutant(
        "q2a",
        "torch.argsort(order)",
        "order",
        "Right for orders that are their own inverse, as all with two coordinates are.",
    ),
    "units_outside_coordinates": mutant(
        "q2a", "rank.repeat_interleave(n_in)", "rank.repeat(n_in)", "Unit v m + i instead of i V + v."
    ),
    "all_hidden_units_alike": mutant(
        "q2a",
        "torch.arange(size) % (m - 1) + 1",
        "torch.ones(size)",
        "One coordinate sees the first, and the others nothing.",
    ),
    "context_ignored": mutant(
        "q2a", "(first - context <= inputs) & ", "", "Every coordinate sees all that were drawn before it."
    ),
    "context_one_too_long": mutant(
        "q2a", "first - context <= inputs", "first - context <= inputs + 1", "The window is one too wide."
    ),
    "degrees_between_hidden_layers": mutant(
        "q2a",
        "above[:, None] == below",
        "above[:, None] >= below",
        "Right with one hidden layer; with two, old coordinates pass.",
    ),
    "masks_of_floats": mutant(
        "q2a",
        "return [(first - context <= inputs) & (inputs < first), *hidden, outputs[:, None] == serves[-1]]",
        "return [mask.float() for mask in "
        "((first - context <= inputs) & (inputs < first), *hidden, outputs[:, None] == serves[-1])]",
        "Zeros and ones where bool is asked for.",
    ),
    "masks_transposed": mutant(
        "q2a",
        "outputs[:, None] == serves[-1]]",
        "(outputs[:, None] == serves[-1]).T]",
        "(in, out) instead of (out, in).",
    ),
    "order_inverted_in_place": mutant(
        "q2a",
        "m, rank = len(order), torch.argsort(order)",
        "m, rank = len(order), order.copy_(torch.argsort(order))",
        "The caller's order is overwritten.",
    ),
    # ---- q2b
    "softmax_over_padded_outputs": {
        "question": "q2b",
        "cell": "q2b",
        "source": SOFTMAX,
        "why": "The network of task 3 with seminar 1's cross-entropy: a categorical head.",
        "tag": "published",
    },
    "mask_in_place": mutant(
        "q2b",
        "            h = F.linear(h if k == 0 else F.relu(h), "
        'layer.weight * self.get_buffer(f"mask{k}"), layer.bias)',
        '            layer.weight.data *= self.get_buffer(f"mask{k}")\n'
        "            h = layer(h if k == 0 else F.relu(h))",
        "A call of the model destroys weights.",
    ),
    "mean_over_dimensions": mutant(
        "q2b", ".squeeze(1).sum(1)", ".squeeze(1).mean(1)", "Nats per coordinate: no log-probability of x."
    ),
    "running_sum_over_coordinates": mutant(
        "q2b", ".cumsum(1)", ".cumsum(2)", "Sums run along the coordinates, not along the values."
    ),
    "own_refusal_counted": mutant(
        "q2b",
        "F.logsigmoid(a), (0, 0, 0, 1)) + F.pad(passed, (0, 0, 1, 0))",
        "F.logsigmoid(a) + passed, (0, 0, 0, 1)) + F.pad(passed[:, -1:], (0, 0, self.n_values - 1, 0))",
        "A value is both refused and taken.",
    ),
    "last_value_forgotten": mutant(
        "q2b",
        "F.pad(passed, (0, 0, 1, 0))",
        "F.pad(passed[:, :-1], (0, 0, 1, 1))",
        "The last value takes nothing of what is left, and the sum exceeds one.",
    ),
    "largest_value_asked_first": mutant(
        "q2b",
        "return F.pad(F.logsigmoid(a), (0, 0, 0, 1)) + F.pad(passed, (0, 0, 1, 0))",
        "return (F.pad(F.logsigmoid(a), (0, 0, 0, 1)) + F.pad(passed, (0, 0, 1, 0))).flip(1)",
        "Normalised, but the questions go downwards.",
    ),
    "one_minus_sigmoid": mutant(
        "q2b",
        "F.logsigmoid(-a).cumsum(1)",
        "(1 - a.sigmoid()).log().cumsum(1)",
        "The logarithm of a rounded zero where a is large.",
    ),
    "blocks_cut_across": mutant(
        "q2b",
        "h.unflatten(1, (-1, self.n_values - 1)).transpose(1, 2)",
        "h.unflatten(1, (self.n_values - 1, -1))",
        "The shape is right, the units are mixed up.",
    ),
    "no_activation": mutant("q2b", "F.relu(h)", "h", "A deep linear network."),
    "every_value_alike": {
        "question": "q2b",
        "cell": "q2b",
        "source": UNIFORM,
        "why": "No network: every value is equally likely, which is normalised and sees nothing.",
    },
    "no_hidden_bias": mutant(
        "q2b",
        "nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks)",
        "nn.Linear(mask.shape[1], mask.shape[0], bias=mask is masks[-1]) for mask in masks)",
        "Hidden layers without a bias.",
    ),
    "starts_at_zero": mutant(
        "q2b",
        '            self.register_buffer(f"mask{k}", mask)',
        '            self.register_buffer(f"mask{k}", mask)\n'
        "            nn.init.zeros_(self.layers[k].weight)",
        "Weights that begin at 0 never learn: nothing depends on anything.",
    ),
    "starts_with_biases_at_zero": mutant(
        "q2b",
        '            self.register_buffer(f"mask{k}", mask)',
        '            self.register_buffer(f"mask{k}", mask)\n            nn.init.zeros_(self.layers[k].bias)',
        "Another start than that of nn.Linear.",
    ),
    "starts_normal": mutant(
        "q2b",
        '            self.register_buffer(f"mask{k}", mask)',
        '            self.register_buffer(f"mask{k}", mask)\n'
        "            nn.init.normal_(self.layers[k].weight)",
        "A much wider start than that of nn.Linear.",
    ),
    "a_scale_besides": mutant(
        "q2b",
        "        self.n_values = n_values\n",
        "        self.n_values, self.scale = n_values, nn.Parameter(torch.ones(1))\n",
        "A parameter more.",
    ),
    "leaky": mutant("q2b", "F.relu(h)", "F.leaky_relu(h)", "Another activation."),
    "gelu": mutant("q2b", "F.relu(h)", "F.gelu(h)", "Another activation."),
    "tanh": mutant("q2b", "F.relu(h)", "h.tanh()", "Another activation."),
    "always_float32": mutant(
        "q2b",
        "return self(x).gather(1, x.unsqueeze(1)).squeeze(1).sum(1)",
        "return self(x).gather(1, x.unsqueeze(1)).squeeze(1).sum(1).float()",
        "float32 after model.double().",
    ),
    "always_float32_in_forward": mutant(
        "q2b",
        "self.layers = nn.ModuleList(",
        "self.register_forward_hook(lambda model, given, log_p: log_p.float())\n"
        "        self.layers = nn.ModuleList(",
        "float32 after model.double(), whatever the weights are.",
    ),
    "log_prob_detached": mutant(
        "q2b", ".squeeze(1).sum(1)", ".squeeze(1).sum(1).detach()", "A model that cannot learn."
    ),
    "hidden_layers_detached": mutant(
        "q2b",
        "h = F.linear(h if k == 0 else F.relu(h),",
        "h = F.linear(h if k == 0 else F.relu(h.detach()),",
        "Only the last layer learns.",
    ),
    "log_prob_keeps_an_axis": mutant(
        "q2b", ".squeeze(1).sum(1)", ".squeeze(1).sum(1, keepdim=True)", "(B, 1)."
    ),
    "vectors_wrapped_in_place": mutant(
        "q2b",
        "h = F.one_hot(x, self.n_values)",
        "h = F.one_hot(x.copy_(x.flip(0)).flip(0), self.n_values)",
        "The caller's vectors are overwritten.",
    ),
    # ---- q2c
    "log_probs_averaged": mutant(
        "q2c",
        "log_prob(states).exp() for log_prob in log_probs]).mean(0)",
        "log_prob(states) for log_prob in log_probs]).mean(0).exp()",
        "The geometric mean is not normalised.",
    ),
    "log_probs_averaged_and_normalised": mutant(
        "q2c",
        "log_prob(states).exp() for log_prob in log_probs]).mean(0)",
        "log_prob(states) for log_prob in log_probs]).mean(0).softmax(0)",
        "A product of experts, not a mixture.",
        tag="published",
    ),
    "table_of_a_sum": mutant("q2c", ".mean(0)", ".sum(0)", "With two models the table sums to two."),
    "table_transposed": mutant(
        "q2c", "reshape(n_values, n_values)", "reshape(n_values, n_values).T", "Columns for rows."
    ),
    "table_without_zeros": mutant(
        "q2c",
        ".mean(0).reshape",
        ".mean(0).clamp(min=1e-9).reshape",
        "The habit of clamping: what is impossible gets a probability.",
    ),
    "table_flat": mutant("q2c", ".reshape(n_values, n_values)", "", "A vector of all pairs."),
    # ---- q2d
    "sampled_in_raster_order": mutant(
        "q2d",
        "in order.tolist()",
        "in range(len(order))",
        "The bug of a well-known course: the order is forgotten.",
    ),
    "sampled_in_inverse_order": mutant(
        "q2d",
        "in order.tolist()",
        "in order.argsort().tolist()",
        "When each is drawn, instead of who is drawn when.",
    ),
    "samples_left_in_drawing_order": mutant(
        "q2d", "return x", "return x[:, order]", "Column k holds what was drawn k-th, not coordinate k."
    ),
    "global_generator_in_sample": mutant(
        "q2d",
        ", generator=generator)",
        ")",
        "Seminar 1's sampler: draws from the global generator.",
        tag="published",
    ),
    "argmax_instead_of_a_draw": mutant(
        "q2d",
        "torch.multinomial(probability, 1, generator=generator).squeeze(1)",
        "probability.argmax(1)",
        "Always the most likely value.",
    ),
    "seed_fixed_inside_sample": mutant(
        "q2d", "generator=generator)", "generator=torch.Generator().manual_seed(i))", "Two calls agree."
    ),
    "one_pass_for_all": mutant(
        "q2d",
        "    for i in order.tolist():\n        probability = logits(x)[:, :, i].softmax(1)",
        "    out = logits(x)\n    for i in order.tolist():\n        probability = out[:, :, i].softmax(1)",
        "Coordinates do not see what was drawn before them.",
    ),
    "samples_of_floats": mutant(
        "q2d", "    return x", "    return x.float()", "float32 where int64 is asked."
    ),
    "samples_of_int32": mutant("q2d", "    return x", "    return x.int()", "int32 where int64 is asked."),
    "samples_transposed": mutant("q2d", "    return x", "    return x.T", "(m, n) instead of (n, m)."),
    "one_vector_a_call": mutant(
        "q2d",
        "        probability = logits(x)[:, :, i].softmax(1)  # (n, V)\n",
        "        probability = torch.cat([logits(row[None])[:, :, i] for row in x]).softmax(1)\n",
        "n calls for every coordinate.",
    ),
    "generator_started_again_in_sample": mutant(
        "q2d",
        "    x = torch.zeros(",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n    x = torch.zeros(",
        "A second call with one generator draws the same.",
    ),
    "order_turned_in_place": mutant(
        "q2d",
        "    return x",
        "    order.copy_(order.argsort())\n    return x",
        "The caller's order is overwritten.",
    ),
    "places_not_drawn_marked": mutant(
        "q2d",
        "torch.zeros(n, len(order), dtype=torch.int64)",
        "torch.full((n, len(order)), -1)",
        "logits is asked about values that there are not.",
    ),
    "first_coordinate_sorted": mutant(
        "q2d",
        "x[:, i] = torch.multinomial(probability, 1, generator=generator).squeeze(1)",
        "x[:, i] = torch.multinomial(probability, 1, generator=generator).squeeze(1)\n"
        "        if i == order[0]:\n            x = x.sort(dim=0).values",
        "The right counts, but where a sample stands says what it is.",
    ),
    "every_sample_twice": mutant(
        "q2d",
        "    return x\n",
        "    return x[: (n + 1) // 2].repeat(2, 1)[:n]\n",
        "Half as many samples, each given out twice.",
    ),
    # ---- q3a
    "rows_counted": {
        "question": "q3a",
        "cell": "q3a",
        "source": ROWS_COUNTED,
        "why": "Ranked by how many it sees, as MADE's masks are read: right for groups of pixels.",
        "tag": "published",
    },
    "one_pixel_a_step": mutant(
        "q3a",
        "return step",
        "return step.argsort(stable=True).argsort()",
        "A right order, in far too many steps.",
    ),
    "steps_from_one": mutant("q3a", "return step", "return step + 1", "Counted from 1."),
    "seen_by_instead_of_sees": mutant(
        "q3a", ".amax(1)", ".amax(0)", "Rows and columns exchanged: drawn from the end."
    ),
    "circles_not_noticed": mutant(
        "q3a",
        'raise ValueError("pixels see each other in a circle: there is no order")',
        "return step",
        "No error.",
    ),
    "one_round": mutant(
        "q3a",
        "range(len(sees) + 1)",
        "range(1)",
        "No chain of two is followed.",
    ),
    "as_late_as_possible": mutant(
        "q3a",
        "        step = later\n",
        "        step = later\n    step = sees.new_zeros(len(sees)).long()\n"
        "    for _ in range(len(sees)):\n"
        "        step = torch.where(sees.T, step + 1, 0).amax(1)\n"
        "    return step.max() - step\n",
        "Counted from the end.",
    ),
    "steps_of_floats": mutant(
        "q3a", "            return step\n", "            return step.float()\n", "float32."
    ),
    "pixels_that_see_themselves": mutant(
        "q3a",
        "    step = torch.zeros(",
        "    sees = sees & ~torch.eye(len(sees), dtype=torch.bool)\n    step = torch.zeros(",
        "No error where a pixel sees itself.",
    ),
    "seen_crossed_off_in_place": mutant(
        "q3a",
        "            return step\n",
        "            sees &= False\n            return step\n",
        "The caller's matrix is overwritten.",
    ),
    # ---- q3b
    "mean_over_pixels": mutant(
        "q3b",
        "index_add(0, step, per_pixel)",
        "index_add(0, step, per_pixel) / step.bincount()",
        "Nats per pixel of a step.",
    ),
    "bits": mutant("q3b", ".mean(0)", ".mean(0) / math.log(2)", "Logarithms to base 2."),
    "sum_over_images": mutant("q3b", ".mean(0)", ".sum(0)", "A batch of one image hides it."),
    "sigmoid_saturates": mutant(
        "q3b",
        'F.binary_cross_entropy_with_logits(logits, x, reduction="none")',
        'F.binary_cross_entropy(logits.sigmoid(), x, reduction="none")',
        "log of a saturated sigmoid: torch clamps it at -100.",
        tag="published",
    ),
    "never_quite_sure": mutant(
        "q3b", 'reduction="none")', 'reduction="none").clamp(min=1e-7)', "What was sure costs a little."
    ),
    "logits_clamped": mutant(
        "q3b",
        "binary_cross_entropy_with_logits(logits,",
        "binary_cross_entropy_with_logits(logits.clamp(-400, 400),",
        "Large logits are cut off.",
    ),
    "steps_from_the_last_image": mutant(
        "q3b", "int(step.max()) + 1)", "int(step.max()) + 2)", "One entry too many."
    ),
    "logits_halved_in_place": mutant(
        "q3b",
        "    per_pixel =",
        "    x, given = x.clone(), x\n    given.zero_()\n    per_pixel =",
        "The caller's images are overwritten.",
    ),
    # ---- q3c
    "every_completion_twice": mutant(
        "q3c",
        "    return x\n",
        "    return torch.where(step < n_known, x, x[: (len(x) + 1) // 2].repeat(2, 1)[: len(x)])\n",
        "Images with equal known pixels get equal others.",
    ),
    "pixel_by_pixel": mutant(
        "q3c",
        "    for t in range(n_known, int(step.max()) + 1):\n        now = step == t\n",
        "    for i in step.argsort()[(step < n_known).sum() :].tolist():\n"
        "        now = torch.arange(len(step)) == i\n",
        "Seminar 1's completion, one pixel a pass: as many calls as unknown pixels.",
        tag="published",
    ),
    "completed_in_one_pass": mutant(
        "q3c",
        "    for t in range(n_known, int(step.max()) + 1):\n        now = step == t\n",
        "    for now in [step >= n_known]:\n",
        "All unknown pixels at once, independently.",
    ),
    "thresholded": mutant(
        "q3c",
        "torch.bernoulli(logits(x)[:, now].sigmoid(), generator=generator)",
        "(logits(x)[:, now] > 0).to(x.dtype)",
        "The most likely value instead of a draw.",
    ),
    "known_one_step_too_many": mutant(
        "q3c", "range(n_known,", "range(n_known + 1,", "Step n_known is left as it came."
    ),
    "known_drawn_again": mutant(
        "q3c", "range(n_known,", "range(0 * n_known,", "Known pixels are overwritten."
    ),
    "argument_changed": mutant("q3c", "x.clone()", "x", "The caller's images are lost."),
    "latest_step_first": mutant(
        "q3c",
        "in range(n_known, int(step.max()) + 1)",
        "in reversed(range(n_known, int(step.max()) + 1))",
        "Pixels are drawn before those that they depend on.",
    ),
    "completions_in_double": mutant("q3c", "    return x", "    return x.double()", "Another type than x."),
    "completions_of_bools": mutant("q3c", "    return x", "    return x.bool()", "Another type than x."),
    "generator_started_again_in_complete": mutant(
        "q3c",
        "    x = x.clone()\n",
        "    x = x.clone()\n    generator = torch.Generator().manual_seed(generator.initial_seed())\n",
        "A second call with one generator draws the same.",
    ),
    "unknown_marked": mutant(
        "q3c",
        "    x = x.clone()\n",
        "    x = torch.where(step < n_known, x, 0.5)\n",
        "logits is asked about values that are neither 0 nor 1.",
    ),
    "seed_fixed_inside_complete": mutant(
        "q3c", "generator=generator)", "generator=torch.Generator().manual_seed(t))", "Two calls agree."
    ),
}

# Generated wrong solutions that compute the same on all that may be handed in, and why.
EQUIVALENT = {
    "(1,) minus (B,) is (B,) as well, and its mean is asked for.": [
        "hw1:q1b:8:nll = theta.logsumexp({0 → 0, keepdim=True}) - masked.logsumexp(1)",
    ],
    "A number minus (B, 1): the mean of B numbers, whatever their shape.": [
        "hw1:q1b:8:p(0) - masked.logsumexp({1 → 1, keepdim=True})",
    ],
    "There are 16 m (m + 1) units: each rank is served; those that serve none have no path.": [
        "hw1:q2a:8:s = [torch.arange(size) {% → //} (m - 1) + 1 for size in",
    ],
    "Every rank is served; units of ranks m and m + 1, which no output has, have no path.": [
        "hw1:q2a:8:torch.arange(size) % (m {- → +} 1) + 1 for size in hidd",
    ],
    "Every rank is served; units of rank m, which no output has, have no path.": [
        "hw1:q2a:8:rch.arange(size) % (m - {1 → 0}) + 1 for size in hidden",
    ],
    "The same as m + 1: units that no output hears.": [
        "hw1:q2a:8:rch.arange(size) % (m - {1 → -1}) + 1 for size in hidden",
    ],
    "All layers of a model have one type, and there are two layers at least.": [
        "hw1:q2b:16:atten(1).to(self.layers[{0 → 1}].weight.dtype)",
    ],
    "All layers of a model have one type.": [
        "hw1:q2b:16:atten(1).to(self.layers[{0 → -1}].weight.dtype)",
    ],
    "The first layer reads zeros and ones, which relu leaves alone.": [
        "hw1:q2b:18:h = F.linear(h if k == {0 → -1} else F.relu(h), layer.w",
    ],
    "reshape follows: (1, V^2) and (V^2,) become the same table.": [
        "hw1:q2c:8:rob in log_probs]).mean({0 → 0, keepdim=True}).reshape(n_values, n_va",
    ],
    "The logits of a coordinate depend on those alone that are drawn already.": [
        "hw1:q2d:6:x = torch.{zeros → ones}(n, len(order), dtype=to",
    ],
    "From any start a chain of m pixels is right after m rounds, and one more sees it.": [
        "hw1:q3a:5:step = torch.{zeros → ones}(len(sees), dtype=torch.",
    ],
    "A round that changes nothing returns: one more is reached in a circle only.": [
        "hw1:q3a:6:_ in range(len(sees) + {1 → 2}):",
    ],
    "From zeros a chain of m pixels is right after m - 1 rounds, and one more sees it.": [
        "hw1:q3a:6:_ in range(len(sees) + {1 → 0}):",
    ],
    "The two have just been found equal.": [
        "hw1:q3a:9:return {step → later}",
    ],
}
