"""How many fold jobs share a GPU, and what a job says of the memory that it took. The GPUs are Ray's word alone."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sweeps import hilbert, run, write_study

from hilbert.repeatable import repeatable
from tune.gpu_memory import GpuMemory, cuda_meter, is_out_of_memory
from tune.job import JobRecord
from tune.packing import CONTEXT, MARGIN, MOST, STEPS, Packing, share
from tune.space import ResourcesConfig

GIB = 2**30
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@given(st.integers(1, MOST))
def test_n_shares_fit_on_a_gpu_as_ray_counts_and_no_more(jobs):
    parts = round(share(jobs) * STEPS)
    assert share(jobs) == parts / STEPS
    assert jobs * parts <= STEPS < (jobs + 1) * parts


@given(st.lists(st.tuples(st.integers(1, 60 * GIB), st.integers(8 * GIB, 80 * GIB)), min_size=1, max_size=6))
def test_the_largest_job_fits_n_times_on_the_smallest_gpu(measured):
    packing, before = Packing("auto"), math.inf
    for peak, total in measured:
        packing.measured(peak, total)
        assert packing.fitting <= before  # more that is known never packs tighter
        before = packing.fitting
    need, smallest = max(peak for peak, _ in measured) + CONTEXT, min(total for _, total in measured)
    assert packing.fitting == 1 or packing.fitting * need * MARGIN <= smallest
    assert packing.fitting == MOST or (packing.fitting + 1) * need * MARGIN > smallest


def test_until_something_is_known_a_job_has_a_gpu_to_itself():
    packing = Packing("auto")
    assert (packing.gpus(), packing.known) == (1.0, False)
    packing.measured(0, 0)  # of a job that used none
    assert (packing.gpus(), packing.known) == (1.0, False)
    packing.measured(GIB, 80 * GIB)
    assert packing.known
    assert packing.gpus() == share(45)
    assert packing.gpus(most=4) == 0.25  # no processors for more
    assert packing.gpus(most=0) == 1.0


def test_jobs_that_run_out_together_lower_the_packing_once():
    packing = Packing("auto")
    packing.measured(GIB, 20 * GIB)
    crowd = packing.gpus()
    assert packing.fitting == 11
    assert all(packing.ran_out(crowd) for _ in range(5))
    assert packing.fitting == 10
    assert packing.ran_out(0.5)
    assert packing.fitting == 1
    assert not packing.ran_out(1.0)  # it had the GPU to itself: that is the job's own failure
    packing.measured(GIB, 20 * GIB)
    assert packing.fitting == 1


@pytest.mark.parametrize("fixed", [0.0, 0.25, 1.0, 2.0])
def test_a_number_stays_what_it_is(fixed):
    packing = Packing(fixed)
    packing.measured(70 * GIB, 80 * GIB)
    assert not packing.ran_out(fixed)
    assert (packing.gpus(), packing.known) == (fixed, True)


@pytest.mark.parametrize("wrong", ["many", -1, 1.5, True, float("nan"), float("inf"), None])
def test_another_word_is_refused(wrong):
    with pytest.raises(
        ValidationError, match=r"must be auto, a share of a GPU \(0 to 1\) or whole GPUs .1024 at most.: it is"
    ):
        ResourcesConfig(gpus_per_job=wrong)


def test_a_record_says_what_the_job_took_and_old_ones_are_read():
    record = JobRecord("a", 0, 1.0, 2.0, gpus=0.25, gpu_memory=3, gpu_total=4, out_of_memory=True)
    assert JobRecord.from_json(record.to_json()) == record
    old = json.loads(record.to_json())
    for name in ("gpu_memory", "gpu_total", "out_of_memory"):
        del old[name]
    assert JobRecord.from_json(json.dumps(old).encode()).gpu_memory == 0


def test_exhausted_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(MemoryError())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured():
    with cuda_meter() as memory:
        torch.ones(10).sum()
        assert memory() == GpuMemory(0, 0)


def settings():
    found = torch.backends
    return (
        torch.get_deterministic_debug_mode(),
        torch.get_float32_matmul_precision(),
        found.cuda.matmul.allow_tf32,
        found.cudnn.allow_tf32,
        found.cudnn.benchmark,
        found.cuda.mem_efficient_sdp_enabled(),
    )


def test_a_gpu_computes_repeatably_and_the_settings_come_back():
    before = settings()
    with repeatable(torch.device("cuda")):  # settings alone: they need no GPU
        assert settings() == (1, "highest", False, False, False, False)
    assert settings() == before
    with repeatable(torch.device("cpu")):
        assert settings() == before


def test_what_is_not_repeatable_is_told_once(caplog):
    import warnings

    with repeatable(torch.device("cuda")):
        for _ in range(3):
            warnings.warn("x_cuda does not have a deterministic implementation. You can file", stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
    assert [record.message for record in caplog.records] == [
        "the last bits may differ from run to run: x_cuda does not have a deterministic implementation"
    ]


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory, demo_store):
    """Fold jobs on two GPUs that Ray is told of."""
    script = Path(__file__).parent / "gpu_ledger.py"
    done = run([sys.executable, str(script), str(demo_store)], folder=tmp_path_factory.mktemp("gpus"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_first_jobs_show_how_many_share_a_gpu(scenarios):
    found = scenarios["packs"]
    assert found["errors"] == [""] * 11
    assert found["gpus"][0] == 1.0
    assert found["gpus"].count(1.0) == 2  # one for each GPU
    assert set(found["gpus"][2:]) == {share(3)}
    assert found["memory"] == [[2 * GIB, 10 * GIB]] * 11
    assert found["said"] == [
        "fold jobs on a GPU from now on: 3 (one took 2.00 GiB; the GPU has 10.0 GiB; resources.gpus_per_job: auto)"
    ]
    assert found["beside"] <= 3


def test_a_crowded_gpu_costs_no_retry_and_is_less_crowded_then(scenarios):
    found = scenarios["lowers"]
    assert found["errors"] == [""] * 11
    assert len(found["said"]) == 2
    assert "fold jobs on a GPU from now on: 2 (one ran out of GPU memory" in found["said"][1]
    assert found["gpus"][-1] == 0.5


def test_a_job_that_a_whole_gpu_doesn_t_hold_fails_and_says_so(scenarios):
    found = scenarios["too large"]
    assert len(found["errors"]) == 2
    for error in found["errors"]:
        assert error.startswith("out of GPU memory with a GPU to itself: lower train.batch_size")
        assert "OutOfMemoryError" in error.splitlines()[-1]


def test_what_an_earlier_run_measured_counts_at_once(scenarios):
    found = scenarios["seen before"]
    assert set(found["gpus"]) == {share(3)}
    assert found["said"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_same_study_runs_where_there_is_no_gpu(tmp_path, demo_store):
    write_study(tmp_path, features=str(demo_store), trials=1, search={}, train={"epochs": 1})
    done = hilbert("sweep", "study.yaml", "--set", "resources.gpus_per_job=auto", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("there is no GPU here: fold jobs run on processors alone") == 1


def benchmark():
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
    return run([sys.executable, str(script), "--epochs", "2", "--processes", "1", "2"], folder=Path.cwd())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_benchmark_says_that_it_needs_a_gpu():
    done = benchmark()
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["there is no CUDA device here, or torch isn't built for it"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_what_the_processor_does_and_repeats_itself():
    done = benchmark()
    assert done.returncode == 0, done.stdout + done.stderr
