"""The same outer step in PyTorch: torch.func (vmap over tasks, all at once) and higher (one task after another).

Runs in an environment of its own, which has torch, higher and numpy but neither JAX nor metapers; ``--data`` is a
workload written by ``python -m benchmarks.workloads --save``.
"""

import time
from collections.abc import Callable

import higher
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap

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


def load(path: str) -> tuple[nn.Module, torch.Tensor | None, list[torch.Tensor], float, bool]:
    """(network with the file's weights, item table or None, data, inner rate, whether the inputs are images)."""
    file = np.load(path)
    data = [torch.tensor(file[f"data/{part}"]) for part in ("support_x", "support_y", "query_x", "query_y")]
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
    table = torch.tensor(file["table"]).requires_grad_() if "table" in file.files else None
    return network, table, data, float(file["rate"]), images


def has(file, layer: int, part: str) -> bool:
    return f"layer/{layer}/{part}" in file.files


def with_func(network: nn.Module, table: torch.Tensor | None, data: list, rate: float, loss: Callable) -> Callable:
    def value(weights: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(functional_call(network, weights, (x,)), y)

    def one(weights: dict, xs, ys, xq, yq) -> torch.Tensor:
        for _ in range(INNER_STEPS):
            slope = grad(value)(weights, xs, ys)
            weights = {name: weight - rate * slope[name] for name, weight in weights.items()}
        return value(weights, xq, yq)

    def mean(weights: dict, rows: dict) -> torch.Tensor:
        xs, ys, xq, yq = data
        if rows:
            xs, xq = rows["table"][xs], rows["table"][xq]
        return vmap(one, (None, 0, 0, 0, 0))(weights, xs, ys, xq, yq).mean()

    moved = list(network.parameters()) + ([table] if table is not None else [])
    optimizer, outer = torch.optim.Adam(moved, lr=OUTER_RATE), grad_and_value(mean, argnums=(0, 1))

    def step() -> float:
        weights = {name: weight.detach() for name, weight in network.named_parameters()}
        (slopes, rows), told = outer(weights, {} if table is None else {"table": table.detach()})
        for name, weight in network.named_parameters():
            weight.grad = slopes[name]
        if table is not None:
            table.grad = rows["table"]
        optimizer.step()
        return float(told)

    return step


def with_higher(network: nn.Module, table: torch.Tensor | None, data: list, rate: float, loss: Callable) -> Callable:
    moved = list(network.parameters()) + ([table] if table is not None else [])
    optimizer = torch.optim.Adam(moved, lr=OUTER_RATE)
    descent = torch.optim.SGD(network.parameters(), lr=rate)
    tasks = data[0].shape[0]

    def one(xs, ys, xq, yq) -> float:
        if table is not None:
            xs, xq = table[xs], table[xq]
        with higher.innerloop_ctx(network, descent, copy_initial_weights=False) as (fast, inner):
            for _ in range(INNER_STEPS):
                inner.step(loss(fast(xs), ys))
            told = loss(fast(xq), yq) / tasks
            told.backward()
            return told.item()

    def step() -> float:
        optimizer.zero_grad()
        told = sum(one(*(part[task] for part in data)) for task in range(tasks))
        optimizer.step()
        return told

    return step


def main() -> None:
    parser = timing.arguments(__doc__, ("W1", "W2-5w1s", "W2-20w1s", "W3"))
    parser.add_argument("-f", "--framework", default="torch.func", choices=["torch.func", "higher"])
    parser.add_argument("--data", required=True, metavar="FILE.npz")
    given = parser.parse_args()
    began = time.perf_counter()
    network, table, data, rate, images = load(given.data)
    loss = nn.functional.cross_entropy if images else nn.functional.mse_loss
    build = with_func if given.framework == "torch.func" else with_higher
    step = build(network, table, data, rate, loss)
    measured = timing.timed(step, began=began, steps=given.steps, max_s=given.max_s)
    timing.answer(given.workload, given.framework, torch.__version__, data[0].shape[0], measured)


if __name__ == "__main__":
    main()
