import signal
import sys

import pytest

from stimage.modules import AlignerConfig, SpotNicheAligner
from stimage.train import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._fit import _interruptible, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:early_stopping was automatically disabled")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "pretrain",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node1",
}


def test_one_device_unless_asked():
    trainer = make_trainer(devices="auto", **QUIET)
    assert (trainer.world_size, trainer.global_rank) == (1, 0)
    assert trainer.loggers == []


def test_processes_of_slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(devices=2, strategy="ddp", **QUIET)
    assert (trainer.world_size, trainer.global_rank) == (2, 1)
    assert trainer.strategy.cluster_environment.creates_processes_externally
    assert trainer.strategy.cluster_environment.auto_requeue is False


def test_a_slurm_job_without_srun_is_one_process(monkeypatch):
    for name, value in SLURM.items():
        if name != "SLURM_STEP_ID":
            monkeypatch.setenv(name, value)
    trainer = make_trainer(devices="auto", **QUIET)
    assert (trainer.world_size, trainer.global_rank) == (1, 0)


@pytest.mark.parametrize("inside", [KeyboardInterrupt, None])
def test_an_exit_is_an_interrupt_only_where_it_was_one(inside):
    handler = signal.getsignal(signal.SIGINT)

    def leave():
        with _interruptible():
            try:
                raise (inside or ValueError)
            except (KeyboardInterrupt, ValueError):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                sys.exit(3)

    with pytest.raises(KeyboardInterrupt if inside else SystemExit):
        leave()
    assert signal.getsignal(signal.SIGINT) is handler


def test_processes_of_torchrun(monkeypatch):
    setting = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {"TORCHELASTIC_RUN_ID": "7", "MASTER_ADDR": "node1", "MASTER_PORT": "1", **setting}.items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(devices=2, num_nodes=2, strategy="ddp", **QUIET)
    assert (trainer.world_size, trainer.global_rank) == (4, 3)
    assert trainer.strategy.cluster_environment.creates_processes_externally


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_processes_that_losses_do_not_come_back_from(strategy):
    with pytest.raises(ValueError, match=f"2 devices cannot be used from a notebook or with `strategy='{strategy}'`"):
        make_trainer(devices=2, strategy=strategy, **QUIET)


def test_aligners_with_batches_of_all_slides_are_trained_on_one_device():
    module = SpotNicheAligner(AlignerConfig(dim=16), n_spot_genes=50, n_niche_genes=50)
    plan = AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=10)
    plan.trainer = make_trainer(devices=2, strategy="ddp", **QUIET)
    with pytest.raises(ValueError, match="is trained on one device, found 2"):
        plan.setup("fit")


@pytest.mark.parametrize(("n_batches", "n_steps"), [(2, 3), (7, 9)])
def test_steps_of_an_aligner_on_two_devices(n_batches, n_steps):
    module = SpotNicheAligner(AlignerConfig(dim=16), n_spot_genes=50, n_niche_genes=50)
    plan = AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=3 * n_batches, own_batches=True)
    plan.trainer = make_trainer(devices=2, strategy="ddp", max_epochs=3, **QUIET)
    plan.setup("fit")
    assert plan.n_steps == n_steps


def test_an_aligner_with_fewer_batches_than_devices():
    module = SpotNicheAligner(AlignerConfig(dim=16), n_spot_genes=50, n_niche_genes=50)
    plan = AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=3, own_batches=True)
    plan.trainer = make_trainer(devices=2, strategy="ddp", max_epochs=3, **QUIET)
    with pytest.raises(ValueError, match="An epoch has 1 batches, fewer than 2 devices"):
        plan.setup("fit")
