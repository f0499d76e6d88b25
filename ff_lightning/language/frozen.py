"""What random layers reach that never learn, under a readout that does: the floor of layer-wise learning.

If trained blocks are not better than this, their layers have learned nothing of use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, whole
from ff_lightning.language.chunked import LOGITS
from ff_lightning.language.stack import TokenStack
from ff_lightning.optim import CosineDecay

EVALUATED_AT_ONCE = 8192
"""Most tokens of a batch of the evaluation; fewer where a vocabulary is so large that their logits are too many."""


def frozen_nats(
    network: TokenStack,
    train_tokens: Tensor,
    validation_tokens: Tensor,
    *,
    steps: int = 200,
    batch_size: int = 32,
    seed: int = 0,
) -> float:
    """Train a readout of all tokens on random layers, and score it on another text.

    The layers are those of the network with new random weights, also where theirs start at 0, so that every layer
    passes something on. The readout is trained by AdamW at a rate of 4e-3 that falls along a cosine.

    Args:
        network: names the layers; neither it nor torch's own source of randomness is touched.
        train_tokens: ``(N,)`` int64.
        validation_tokens: ``(M,)`` int64, read in windows side by side; what is left at the end is not predicted.
        steps: updates of the readout.
        batch_size: windows of an update.
        seed: of the weights and of the windows.

    Returns:
        Nats a token on the validation text.

    Raises:
        InputError: a text is shorter than a window, or an argument is not a whole number of at least 1.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        whole(name, value, least=1)
    for name, text in (("train_tokens", train_tokens), ("validation_tokens", validation_tokens)):
        if text.ndim != 1 or len(text) <= network.context:
            raise InputError(
                f"Passed `{name}` of shape {tuple(text.shape)}. They must be one row of more than "
                f"`context={network.context}` tokens."
            )
        network.check_tokens(text)
    with torch.inference_mode(False), torch.enable_grad():
        stack = random_layers(network, seed)
        stack.set_unigram(train_tokens.bincount(minlength=network.vocab_size).to(stack.prior.device))
        _train_readout(stack, train_tokens, steps, batch_size, seed)
    return _nats(stack, validation_tokens)


def random_layers(network: TokenStack, seed: int) -> TokenStack:
    """All layers of a network in one block, with random weights that do not learn, under a readout of zeros.

    Embeddings have variance 1, matrices and filters 1 over the number of their inputs; biases are 0, other vectors
    are kept.

    Args:
        network: is copied.
        seed: of the weights.
    """
    stack = network.as_one_block().eval()
    (block,) = stack.token_blocks()
    generator = torch.Generator(stack.prior.device).manual_seed(seed)
    with torch.no_grad():
        for module in block.layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    std = 1.0 if isinstance(module, nn.Embedding) else parameter[0].numel() ** -0.5
                    parameter.normal_(std=std, generator=generator)
                elif name == "bias":
                    parameter.zero_()
        for parameter in block.readout.parameters():
            parameter.zero_()
    block.layer.requires_grad_(False)
    block.readout.requires_grad_(True)
    return stack


def _train_readout(stack: TokenStack, tokens: Tensor, steps: int, batch_size: int, seed: int) -> None:
    readout = [p for p in stack.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(readout, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.01)
    decay = CosineDecay(optimizer, warmup=min(0.2, 50 / steps), total_updates=steps)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(stack.context + 1)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - stack.context, (batch_size, 1), generator=generator)
        windows = tokens[starts + offsets].to(stack.prior.device)
        (step,) = stack.local_losses(stack.signal(windows[:, :-1], windows[:, 1:]))
        optimizer.zero_grad()
        step.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()


@torch.no_grad()
def _nats(stack: TokenStack, tokens: Tensor) -> float:
    windows = tokens.unfold(0, stack.context + 1, stack.context)
    total = 0.0
    at_once = min(EVALUATED_AT_ONCE, LOGITS // stack.vocab_size)
    for some in torch.split(windows, max(1, at_once // stack.context)):
        batch = some.to(stack.prior.device)
        total += F.cross_entropy(stack(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (windows.shape[0] * stack.context)
