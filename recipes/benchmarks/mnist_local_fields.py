"""Test error of `mnist_local_fields`: local receptive fields that share no weights, without labels, tier T1.

    python recipes/benchmarks/mnist_local_fields.py --data path/to/mnist [--seed 0 1 2] [--parts ff twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/mnist_local_fields.py --validation-only --model.network.peer_weight 0.0

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The last line is
JSON; errors are in percent and the mean over seeds, `cpu_minutes` those of training one seed.
"""

from hinton import benchmark

if __name__ == "__main__":
    benchmark("mnist_local_fields", __doc__, data="ylecun/mnist")
