"""A fit on one node of a cluster that is cut short, and goes on on another: what the test of it runs, by itself.

    python tests/states_ledger.py ADDRESS FOLDER

Prints JSON: the nodes, what lay in the folder between the two, afterwards, and the results of both ways.
"""

import json
import sys
from pathlib import Path

import ray
from synthetic import fit_config
from test_checkpoint import DATA, TASKS, VARIANTS, PowerCut, found

from hilbert.training import fit
from tune.checkpoints import StateCheckpoint
from tune.workers import BoardStates, new_board, on_node, this_node


def job(board, epochs):
    """Fits on this node, and is cut short after so many epochs."""
    config, states = fit_config(tasks=TASKS, **VARIANTS["patience"]), BoardStates(board)
    try:
        result = fit(config, *DATA, checkpoint=PowerCut(StateCheckpoint(states, "job", every=0), epochs))
    except PowerCut.Now:
        return this_node(), None
    states.forget("job")
    return this_node(), repr(found(result))


def main(address, folder):
    """See above."""
    ray.init(address, log_to_driver=False)
    others = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != this_node()]
    board, here = new_board(Path(folder)), Path(folder)
    task = ray.remote(num_cpus=1)(job)
    first, cut = ray.get(task.options(scheduling_strategy=on_node(others[0])).remote(board, 3))
    ray.get(board.where.remote())  # what was sent before is written
    between = sorted(path.name for path in here.iterdir())
    second, whole = ray.get(task.options(scheduling_strategy=on_node(others[1])).remote(board, 1000))
    ray.get(board.where.remote())
    left = sorted(path.name for path in here.iterdir())
    _, expected = ray.get(task.remote(board, 1000))
    print(json.dumps([len({this_node(), first, second}), cut, between, left, whole == expected]))


if __name__ == "__main__":
    main(*sys.argv[1:])
