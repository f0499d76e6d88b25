"""Test error of `fashion_mlp`: supervised FF on Fashion-MNIST with labels in the input, tier T1.

    python recipes/benchmarks/fashion_mlp.py --data path/to/fashion_mnist [--seed 0 1 2] [--parts ff twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/fashion_mlp.py --validation-only --trainer.max_epochs 10 --data.flip true

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The last line is
JSON; errors are in percent and the mean over seeds, `cpu_minutes` those of training one seed.
"""

from hinton import benchmark

if __name__ == "__main__":
    benchmark("fashion_mlp", __doc__, data="zalando-datasets/fashion_mnist")
