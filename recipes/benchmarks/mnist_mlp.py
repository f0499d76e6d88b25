"""Test error of the MNIST recipes: supervised FF with labels in the input, tier T1, or local losses, tier T2.

    python recipes/benchmarks/mnist_mlp.py --data path/to/mnist [--jitter] [--seed 0 1 2] [--parts ff twin]

`--jitter` takes the recipe with shifted images, `--recipe mnist_predsim` another one, such as the local losses of
Nøkland and Eidnes, and `--seconds 1200` as many epochs as fit into this CPU time.
Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/mnist_mlp.py --validation-only --parts ff --trainer.max_epochs 10 \
        --model.negatives ff_lightning.negatives.UniformWrongLabel

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The recipe's
settings were chosen on validation images cut from the training set; the test set is looked at once, at the end. The
last line is JSON; errors are in percent and the mean over seeds, `cpu_minutes` those of training one seed.
"""

from hinton import benchmark

if __name__ == "__main__":
    benchmark("mnist_mlp", __doc__, data="ylecun/mnist", jitter="mnist_mlp_jitter")
