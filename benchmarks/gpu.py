"""What a GPU computes, whether it repeats itself, and how many fold jobs it holds.

    python benchmarks/gpu.py [--documents 400] [--epochs 8] [--processes 1 4 8]

Needs a CUDA device, and neither Ray nor MLflow: fits a synthetic cohort in processes of its own. Prints four parts:

    equal    the largest difference between GPU and CPU, relative to the largest value on the CPU, of a batch's outputs,
             losses and gradients in float32: at most 1e-4
    repeat   the same fit twice on the GPU, bit by bit: held-out scores and weights; and what torch warned of
    memory   the most that torch reserved in a fit, and what packing makes of it (`tune.packing`)
    speed    fold jobs an hour with so many processes beside each other on one GPU; and one process on the CPU

Exits with 1 if a part isn't as it should be, with 2 if there is no CUDA device.
"""

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hilbert.batches import make_batch
from hilbert.config import FitConfig
from hilbert.folds import Fold
from hilbert.repeatable import prepare_cuda, repeatable
from hilbert.tasks import encode_labels
from hilbert.trainer import Trainer
from hilbert.training import FoldResult, fit
from tune.gpu_memory import GpuMemory, cuda_meter
from tune.job import prepare_worker
from tune.packing import CONTEXT, Packing

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from synthetic import TASKS, Store, make_store

CLOSE = 1e-4
GIB = 2**30
AUDIO, TEXT = 1280, 768
"""Width of the features: as of Whisper large and of BERT."""
ROUNDS = 3
"""Fits of each process that are timed, after one that isn't."""


@dataclass(frozen=True)
class Task:
    """What a process fits, again and again."""

    documents: int
    epochs: int
    device: str

    def data(self) -> tuple[Store, Fold]:
        """The cohort and its split: a fifth held out, a tenth for the choice of the epoch."""
        n = self.documents
        rows = np.arange(n)
        fold = Fold(rows[3 * n // 10 :], rows[n // 5 : 3 * n // 10], rows[: n // 5], index=0)
        return make_store(n, audio_dim=AUDIO, text_dim=TEXT, longest=40, missing=0.05), fold

    def config(self, **train: object) -> FitConfig:
        """The study file's defaults, all losses in use."""
        return FitConfig.model_validate(
            {
                "tasks": TASKS,
                "model": {"experts": 4},
                "loss": {"contrastive": 0.5, "cka": 0.5, "mi": 0.5},
                "train": {"epochs": self.epochs, "patience": 0, "device": self.device} | train,
            }
        )


def computed(task: Task, device: str) -> dict[str, Tensor]:
    """Outputs, losses and all gradients (as one vector) of one batch by an untrained model, on the CPU in float64."""
    store, fold = task.data()
    config = task.config()
    labels = encode_labels(store.documents, config.tasks, source="synthetic")
    torch.manual_seed(0)
    trainer = Trainer(config, store, fold, labels, torch.device(device), np.random.default_rng(0))
    model = trainer.model.eval()  # without dropout, whose random numbers differ
    batch = make_batch(store, trainer.labels, fold.train[:32], rng=np.random.default_rng(0)).to(torch.device(device))
    with repeatable(torch.device(device)):
        output = model(batch)
        terms = trainer.objective(output, batch)
        terms.total.backward()
    found = {"audio": output.audio, "text": output.text, "joint": output.joint, "total": terms.total}
    found |= {f"logits {name}": value for name, value in output.logits.items()}
    found |= {f"loss {name}": value for name, value in terms.values.items()}
    found["gradient"] = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    return {name: value.detach().cpu().double() for name, value in found.items()}


def differences(task: Task) -> dict[str, float]:
    """The largest difference between GPU and CPU of every tensor, relative to its largest value."""
    here, there = computed(task, "cpu"), computed(task, task.device)
    return {
        name: float((there[name] - value).abs().max() / value.abs().max().clamp(min=1e-6))
        for name, value in here.items()
    }


def same_bits(first: FoldResult, second: FoldResult) -> bool:
    """Whether two fits gave the same scores and weights."""
    weights = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    scores = all(np.array_equal(first.scores[name], second.scores[name]) for name in first.scores)
    return scores and all(torch.equal(one, other) for one, other in weights)


def measured(task: Task) -> tuple[FoldResult, GpuMemory]:
    """A fit, and the memory that it took."""
    store, fold = task.data()
    with cuda_meter() as memory:
        return fit(task.config(), store, fold), memory()


def timed(task: Task) -> tuple[float, float]:
    """When the timed fits of this process began and ended."""
    prepare_worker()
    store, fold = task.data()
    fit(task.config(epochs=1), store, fold)
    began = time.time()
    for _ in range(ROUNDS):
        fit(task.config(), store, fold)
    return began, time.time()


def jobs_an_hour(task: Task, processes: int) -> float:
    """Of so many processes beside each other, over the time in which any of them worked."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        spans = list(pool.map(timed, [task] * processes))
    return 3600 * ROUNDS * processes / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def checked(task: Task) -> bool:
    """Prints the first three parts; returns whether all is as it should be."""
    found = differences(task)
    worst = max(found, key=found.__getitem__)
    equal = found[worst] <= CLOSE
    verdict = "ok" if equal else "NOT EQUAL"
    print(f"equal    {len(found)} outputs, losses and gradients, worst {worst}: {found[worst]:.1e}  {verdict}")
    first, memory = measured(task)
    again, _ = measured(task)
    same = same_bits(first, again)
    print(f"repeat   {'the same bits' if same else 'DIFFERENT BITS'}")
    packing = Packing("auto")
    packing.measured(*memory)
    print(
        f"memory   {memory.peak / GIB:.2f} GiB of {memory.total / GIB:.1f} GiB, and {CONTEXT / GIB:.2f} GiB for CUDA: "
        f"{packing.fitting} fold jobs share a GPU"
    )
    return equal and same


def main() -> int:
    """Prints all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here, or torch isn't built for it", file=sys.stderr)
        return 2
    logging.basicConfig(format="         %(message)s")
    prepare_cuda()
    task = Task(options.documents, options.epochs, "cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    fine = checked(task)
    for processes in options.processes:
        print(f"speed    {processes} on the GPU: {jobs_an_hour(task, processes):,.0f} fold jobs an hour", flush=True)
    print(f"speed    1 on the CPU: {jobs_an_hour(Task(options.documents, options.epochs, 'cpu'), 1):,.0f} an hour")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
