"""The same steps in PyTorch: torch.func (vmap over tasks, all at once) and higher (one task after another).

Runs in an environment of its own, which has torch, higher and numpy but neither JAX nor metapers; ``--data`` is a
workload written by ``python -m benchmarks.workloads --save``.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import higher
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional

from benchmarks import timing

INNER_STEPS, OUTER_RATE = 5, 1e-3


class Conv4(nn.Module):
    """Four strided convolutions with batch-statistics norm, mean over space, linear."""

    def __init__(self, ways: int, filters: int):
        super().__init__()
        layers = []
        for i in range(4):
            norm = nn.BatchNorm2d(filters, track_running_stats=False)
            layers += [nn.Conv2d(1 if i == 0 else filters, filters, 3, stride=2, padding=1), norm, nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(filters, ways)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Given(NamedTuple):
    """A workload: network with its first weights, item table or None, support and query, inner rate, mean loss."""

    network: nn.Module
    table: torch.Tensor | None
    data: list[torch.Tensor]
    rate: float
    loss: Callable

    def inputs(self, part: torch.Tensor, table: torch.Tensor | None = None) -> torch.Tensor:
        table = self.table if table is None else table
        return part if table is None else table[part]

    def moved(self) -> list[torch.Tensor]:
        return list(self.network.parameters()) + ([] if self.table is None else [self.table])


def load(path: str, device: str) -> Given:
    """The file's workload, in its own precision."""
    file = np.load(path)
    torch.set_default_dtype(torch.from_numpy(file["layer/0/w"]).dtype)
    data = [
        torch.tensor(file[f"data/{part}"], device=device) for part in ("support_x", "support_y", "query_x", "query_y")
    ]
    layers = [
        {part: torch.tensor(file[f"layer/{i}/{part}"]) for part in ("w", "b", "gain", "offset") if has(file, i, part)}
        for i in range(sum(name.endswith("/w") for name in file.files))
    ]
    images = "gain" in layers[0]
    if images:
        network: nn.Module = Conv4(layers[-1]["b"].shape[0], layers[0]["b"].shape[0])
        data = [part.movedim(-1, 2) if part.ndim == 5 else part.long() for part in data]
    else:
        parts = [nn.Linear(*layer["w"].shape) for layer in layers]
        network = nn.Sequential(*[module for part in parts for module in (part, nn.ReLU())][:-1])
    modules = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d)]
    values = [(layer[a], layer[b]) for layer in layers for a, b in (("w", "b"), ("gain", "offset")) if a in layer]
    with torch.no_grad():
        for module, (weight, bias) in zip(modules, values, strict=True):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(weight.ndim, (0,))
            module.weight.copy_(weight.permute(axes))
            module.bias.copy_(bias)
    table = torch.tensor(file["table"], device=device).requires_grad_() if "table" in file.files else None
    return Given(
        network.to(device),
        table,
        data,
        float(file["rate"]),
        functional.cross_entropy if images else functional.mse_loss,
    )


def has(file, layer: int, part: str) -> bool:
    return f"layer/{layer}/{part}" in file.files


Steps = tuple[Callable[[], float], Callable[[], float] | None]  # (step, proof of what adapting alone came to)


def with_func(given: Given, mode: str, compiled: bool) -> Steps:
    network, (xs, ys, xq, yq) = given.network, given.data
    compile_ = torch.compile if compiled else lambda function: function

    def value(weights: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return given.loss(functional_call(network, weights, (x,)), y)

    def adapted(weights: dict, x: torch.Tensor, y: torch.Tensor) -> dict:
        for _ in range(INNER_STEPS):
            slope = grad(value)(weights, x, y)
            weights = {name: weight - given.rate * slope[name] for name, weight in weights.items()}
        return weights

    def current() -> dict:
        return {name: weight.detach() for name, weight in network.named_parameters()}

    if mode == "one":
        one_user = compile_(lambda x, y, q: functional_call(network, adapted(current(), x, y), (q,)))

        def first_user() -> float:
            with torch.no_grad():
                return float(with_rows(given, one_user)[0, 0])

        return first_user, None
    if mode == "adapt":
        everybody, held = compile_(vmap(adapted, (None, 0, 0))), {}

        def all_users() -> float:
            with torch.no_grad():
                held.update(everybody(current(), given.inputs(xs).detach(), ys))
            finish()
            return 0.0

        return all_users, lambda: float(vmap(value)(held, given.inputs(xq), yq).mean())

    def mean(weights: dict, rows: dict) -> torch.Tensor:
        one = lambda weights, x, y, q, t: value(adapted(weights, x, y), q, t)
        table = rows.get("table")
        return vmap(one, (None, 0, 0, 0, 0))(weights, given.inputs(xs, table), ys, given.inputs(xq, table), yq).mean()

    optimizer, outer = torch.optim.Adam(given.moved(), lr=OUTER_RATE), compile_(grad_and_value(mean, argnums=(0, 1)))

    def step() -> float:
        (slopes, rows), told = outer(current(), {} if given.table is None else {"table": given.table.detach()})
        for name, weight in network.named_parameters():
            weight.grad = slopes[name]
        if given.table is not None:
            given.table.grad = rows["table"]
        optimizer.step()
        return float(told)

    return step, None


def with_higher(given: Given, mode: str) -> Steps:
    network, (xs, ys, xq, yq) = given.network, given.data
    optimizer = torch.optim.Adam(given.moved(), lr=OUTER_RATE)
    descent, tasks, train = torch.optim.SGD(network.parameters(), lr=given.rate), len(xs), mode == "train"

    def adapted(x: torch.Tensor, y: torch.Tensor) -> Callable:
        told = {"copy_initial_weights": False, "track_higher_grads": train}
        with higher.innerloop_ctx(network, descent, **told) as (fast, inner):
            for _ in range(INNER_STEPS):
                inner.step(given.loss(fast(x), y))
        return fast

    if mode == "one":
        return lambda: float(with_rows(given, lambda x, y, q: adapted(x, y)(q))[0, 0]), None
    if mode == "adapt":
        held = []

        def all_users() -> float:
            held[:] = [adapted(given.inputs(x).detach(), y) for x, y in zip(xs, ys)]
            finish()
            return 0.0

        losses = lambda: [given.loss(fast(given.inputs(x)), y).item() for fast, x, y in zip(held, xq, yq)]
        return all_users, lambda: sum(losses()) / tasks

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for x, y, q, t in zip(xs, ys, xq, yq):
            told = given.loss(adapted(given.inputs(x), y)(given.inputs(q)), t) / tasks
            told.backward()
            total += told.item()
        optimizer.step()
        return total

    return step, None


def with_rows(given: Given, predict: Callable) -> torch.Tensor:
    """``predict`` for the first user, whose examples come from the host and whose predictions go back there."""
    device = next(given.network.parameters()).device
    x, y, q = (torch.from_numpy(given.data[part][0].cpu().numpy()).to(device) for part in (0, 1, 2))
    return predict(given.inputs(x).detach(), y, given.inputs(q).detach()).detach().cpu()


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = timing.arguments(__doc__, ("W1", "W2-5w1s", "W2-20w1s", "W3"))
    parser.add_argument("-f", "--framework", default="torch.func", choices=["torch.func", "higher"])
    parser.add_argument("--compile", action="store_true", help="torch.func only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", required=True, metavar="FILE.npz")
    told = parser.parse_args()
    began = time.perf_counter()
    if told.device != "cpu":  # as XLA does by default there; PyTorch's own default has it for convolutions alone
        torch.set_float32_matmul_precision("high")
    given = load(told.data, told.device)
    func = told.framework == "torch.func"
    step, proof = with_func(given, told.mode, told.compile) if func else with_higher(given, told.mode)
    measured = timing.timed(step, began=began, steps=told.steps, max_s=told.max_s)
    if proof is not None:
        measured |= {"loss": proof(), "losses": [proof()]}
    if told.device != "cpu":
        measured |= {"device_peak_mb": torch.cuda.max_memory_allocated() / 2**20}
    tasks = 1 if told.mode == "one" else len(given.data[0])
    timing.answer(told.workload, told.framework, torch.__version__, tasks, measured)


if __name__ == "__main__":
    main()
