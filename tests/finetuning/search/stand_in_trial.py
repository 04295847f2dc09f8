"""A fake trial: its metrics are a function of its flags, and it writes the files of a run.

Accuracy is 0.9 minus the distance of ``--learning_rate`` from 0.3, reported in ``--num_train_epochs`` evaluations.
Rates above 1 make it fail, ``--die N`` makes it kill itself at its first N starts, 0.7 makes it hang after its first
evaluation, and it waits for the file of ``--hold``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from nip.runs.workers import end_with_parent


def main(words):
    def value(flag, default=None):
        return words[words.index(flag) + 1] if flag in words else default

    end_with_parent()
    folder, rate = Path(value("--output_dir")), float(value("--learning_rate"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{rate}\n")
    if len((folder / "starts.txt").read_text().split()) <= int(value("--die", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if rate > 10:
        print("the input is wrong")
        sys.exit(2)
    if rate > 1:
        sys.exit("out of memory")
    accuracy = 0.9 - abs(rate - 0.3)
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(int(value("--num_train_epochs", 2))):
            line = {"step": epoch, "split": "dev", "accuracy": accuracy - 0.01 / (epoch + 1)}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if rate == 0.7:
                time.sleep(600)
    held = value("--hold")
    while held and not Path(held).exists():
        time.sleep(0.05)
    (folder / "model.safetensors").write_text("weights")
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    (folder / "run.json").write_text('{"kind": "glue"}')
    (folder / "result.json").write_text(json.dumps({"metrics": {"accuracy": accuracy, "loss": 1 - accuracy}}))


if __name__ == "__main__":
    main(sys.argv[1:])
