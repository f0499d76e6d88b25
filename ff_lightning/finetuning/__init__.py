"""Pretrained models, trained on: language models of transformers in blocks, new trainings from trained weights."""

from ff_lightning.finetuning.causal import CausalLM as CausalLM
from ff_lightning.finetuning.fitting import fit_goals as fit_goals
from ff_lightning.finetuning.goals import Goal as Goal
from ff_lightning.finetuning.goals import NextToken as NextToken
from ff_lightning.finetuning.goals import Reconstruction as Reconstruction
from ff_lightning.finetuning.weights import begin_from as begin_from
from ff_lightning.finetuning.weights import save_transformers as save_transformers

__all__ = ["CausalLM", "Goal", "NextToken", "Reconstruction", "begin_from", "fit_goals", "save_transformers"]
