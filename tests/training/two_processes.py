"""Run by test_trainer.py through torchrun: a few steps of a small task in a folder, to the step given."""

import sys
from pathlib import Path

from test_trainer import Line, schedule

from livetalk_core.training.trainer import Trainer

if __name__ == "__main__":
    trainer = Trainer(Line(), schedule(int(sys.argv[2]), final_rate=1.0, warmup=0), Path(sys.argv[1]))
    trainer.run()
    trainer.accelerator.end_training()
