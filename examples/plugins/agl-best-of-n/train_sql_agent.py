"""Trains the SQL agent of `examples/sql_agent`, embedded model and data, by imitating the best of its own rollouts.

python train_sql_agent.py --out .agl/best-of-n              # minutes on two CPU cores
python train_sql_agent.py --out .agl/control --shuffle-rewards
"""

import argparse
import sys
from pathlib import Path

import agl

from agl_best_of_n.algorithm import BestOfN

sys.path.insert(0, str(Path(__file__).parents[2] / "sql_agent"))
import train_sql_agent as example  # the script of that folder, for its agent, data and model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path(".agl"), help="folder for store, databases, checkpoints and report")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=34)
parser.add_argument("--lr", type=float, default=4e-4)
parser.add_argument("--shuffle-rewards", action="store_true", help="control run: nothing can be learned")
options = parser.parse_args()

train, _, test = example.make_splits(options.out / "databases", seed=0)
trainer = agl.Trainer(
    algorithm=BestOfN(example.EMBEDDED_MODEL, steps=options.steps, lr=options.lr, max_tokens=64, shuffle_rewards=options.shuffle_rewards),
    n_runners=32,
    adapter={"agent_match": "write|rewrite"},
    store=options.out / "store.sqlite",
    seed=options.seed,
    timeout=120,
)
example.show(trainer.fit(example.SPELLINGS["graph"], train, test_dataset=test), trainer.console)
