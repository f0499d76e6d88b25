"""Pretrained language models in blocks: fine-tuned without backprop between them, and written back."""

from ff_lightning.finetuning.causal import CausalLM as CausalLM
from ff_lightning.finetuning.goals import Goal as Goal
from ff_lightning.finetuning.goals import NextToken as NextToken
from ff_lightning.finetuning.goals import Reconstruction as Reconstruction
from ff_lightning.finetuning.fitting import fit_goals as fit_goals
