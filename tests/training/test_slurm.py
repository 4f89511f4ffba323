"""The batch script: bash that starts the same module on every host."""

from __future__ import annotations

import subprocess

import pytest
import training_runs

from cream.training import slurm


def test_a_slurm_script_is_bash_and_starts_the_same_module(tmp_path):
    script = slurm.script("runs/my run", nodes=2, gpus=4, cpus=32)
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=4\n" in script
    assert "export OMP_NUM_THREADS=8\n" in script
    assert "-m cream.training 'runs/my run' --root ." in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    bin_ = tmp_path / "srun"  # what srun would start, argument by argument
    bin_.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho host1\necho host2\n")
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "h"}
    done = subprocess.run(["bash"], input=script, text=True, check=True, env=path,
                          stdout=subprocess.PIPE)  # fmt: skip
    said = done.stdout.splitlines()
    assert "--rdzv-endpoint=host1:29500" in said and "runs/my run" in said


def test_the_command_prints_it(tmp_path, capsys):
    training_runs.job(tmp_path, batch_size=12, micro_batch=2)
    run = str(tmp_path)
    slurm.main([run, "--nodes", "3", "--gpus", "2", "--time", "1:00:00"])
    assert capsys.readouterr().out == slurm.script(run, nodes=3, gpus=2, time="1:00:00")


def test_a_run_that_is_not_there_gets_no_script(tmp_path, capsys):
    """And the command that makes one is named."""
    with pytest.raises(SystemExit) as ended:
        slurm.main([str(tmp_path)])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert f"python -m cream.presets NAME {tmp_path}" in said.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--nodes", "0"], "nodes is 0; it must be a whole number of at least 1"),
        (["--gpus", "0"], "gpus is 0; it must be a whole number of at least 1"),
        (["--nodes", "2", "--gpus", "3"], "batch_size 4 is not a multiple of micro_batch 4 x 6"),
    ],
)
def test_a_job_that_could_only_fail_in_the_queue_gets_no_script(tmp_path, capsys, given, says):
    training_runs.job(tmp_path)
    with pytest.raises(SystemExit) as ended:
        slurm.main([str(tmp_path), *given])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "" and says in said.err
