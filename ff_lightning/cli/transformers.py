"""``ff-lightning export --transformers``: a language model as a folder that transformers reads."""

from __future__ import annotations


def export_transformers(ckpt_path: str, transformers: str, trust: str = "") -> None:
    """Write a language model that was cut from transformers as a folder that ``AutoModelForCausalLM`` reads.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/causal_lm/best.ckpt``.
        transformers: the folder; made if it is not there.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: the checkpoint is not of such a model.
    """
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import trusted
    from ff_lightning.finetuning import save_transformers

    save_transformers(ckpt_path, transformers, trust=trusted(trust))
    rank_zero_info(f"Wrote {transformers}.")
