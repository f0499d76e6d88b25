"""Test error of `mnist_mlp_unsupervised`: hybrid images as negatives, a linear softmax on the activities, tier T1.

    python recipes/benchmarks/mnist_unsupervised.py --data path/to/mnist [--seed 0 1 2] [--parts ff twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/mnist_unsupervised.py --validation-only --model.negatives.blurs 10

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The last line is
JSON; errors are in percent and the mean over seeds, `cpu_minutes` those of training one seed.
"""

from hinton import benchmark

if __name__ == "__main__":
    benchmark("mnist_mlp_unsupervised", __doc__, data="ylecun/mnist")
