"""Test error of `mnist_recurrent`: a recurrent net with top-down connections, tier T1.

    python recipes/benchmarks/mnist_recurrent.py --data path/to/mnist [--seed 0 1 2] [--parts ff twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/mnist_recurrent.py --validation-only --model.network.widths [2000,2000]

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The last line is
JSON; errors are in percent and the mean over seeds, `cpu_minutes` those of training one seed.
"""

from hinton import benchmark

if __name__ == "__main__":
    benchmark("mnist_recurrent", __doc__, data="ylecun/mnist")
