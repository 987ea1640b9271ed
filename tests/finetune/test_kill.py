"""A whole fine-tuning by the command line, killed again and again: at its end the same bytes as one left in peace."""

import json
import random
import signal
import subprocess
import sys
import time

WORDS = ["king", "queen", "knight", "sword", "file", "disk", "key", "byte"]


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(tmp_path):
    rows = [f"{'old' if n % 8 < 4 else 'new'}\tThe {WORDS[n % 8]} and the {WORDS[n * 3 % 8]}, {n}." for n in range(96)]
    data = tmp_path / "data.tsv"
    data.write_text("\n".join(["label\ttext", *rows]), encoding="utf-8")

    def command(name):
        return [
            sys.executable, "-m", "minialbert", "finetune", str(data), "--output", str(tmp_path / name), "--seeds", "2",
            "--epochs", "4", "--batch", "8", "--set", "num_hidden_layers=1", "--dropout", "0.1", "--lora", "2",
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True, capture_output=True)
    kills, draw = 0, random.Random(0)
    for _ in range(30):
        run = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = {path.name for path in (tmp_path / "killed").glob("seed-*/step-*")}
        while run.poll() is None:  # from when it has done an epoch more, at any moment
            time.sleep(0.02)
            if kills < 4 and {path.name for path in (tmp_path / "killed").glob("seed-*/step-*")} - before:
                time.sleep(draw.random())
                run.send_signal(signal.SIGKILL)
        if run.wait() == 0:
            break
        kills += 1
    assert run.returncode == 0 and kills >= 2
    for name in ("model/model.safetensors", "model/adapter/adapter.safetensors", "predictions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    assert reports[0] == reports[1]
