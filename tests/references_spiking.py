"""Event-driven Forward-Forward in plain floats and loops (Ororbia 2023, arXiv 2303.18187).

The paper's plasticity of a synapse from unit j to unit i at a time step is ``dC/dz_i * s_j``: the contrast C of the
layer's own goodness, by the trace z of the unit that it leads to, times the spike that it carries. Here it carries two
factors more, ``dz_i/ds_i`` and the surrogate ``ds_i/du_i``, as does :mod:`ff_lightning.networks.spiking_layers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.references import Row, Rows, mean_of_squares, sigmoid, softplus


@dataclass
class Layer:
    """Synapses of one layer of leaky integrate-and-fire units."""

    weight: list[list[float]]
    bias: list[float]
    context: list[list[float]]  # one row a class
    competition: list[float]
    decay: float = 0.9
    trace_decay: float = 0.7
    slope: float = 4.0
    label_scale: float = 1.0


@dataclass
class Memory:
    """What a layer remembers of one sample."""

    membrane: list[float]
    spikes: list[float]
    trace: list[float]

    @classmethod
    def rest(cls, units: int) -> Memory:
        return cls([0.0] * units, [0.0] * units, [0.0] * units)


def time_step(layer: Layer, below: Row, label: int | None, memory: Memory) -> Memory:
    """One step of a layer for one sample."""
    units = range(len(layer.bias))
    active = sum(memory.spikes) / len(memory.spikes)
    after = Memory.rest(len(layer.bias))
    for i in units:
        current = layer.bias[i] + sum(w * s for w, s in zip(layer.weight[i], below, strict=True))
        if label is not None:
            current += layer.label_scale * layer.context[label][i]
        current -= max(layer.competition[i], 0.0) * active
        after.membrane[i] = layer.decay * memory.membrane[i] - memory.spikes[i] + current
        after.spikes[i] = 1.0 if after.membrane[i] >= 1 else 0.0
        after.trace[i] = layer.trace_decay * memory.trace[i] + (1 - layer.trace_decay) * after.spikes[i]
    return after


@dataclass
class Stack:
    """Layers that learn at every time step by plain gradient descent, with the pairwise loss of SymBa."""

    layers: list[Layer]
    rate: float
    alpha: float
    losses: list[float] = field(default_factory=list)

    def learn(self, frames: list[list[list[float]]], labels: tuple[list[int], list[int]]) -> None:
        """Go through the frames of a batch, ``frames[t][n]``; labels are the right and the wrong ones."""
        samples = range(len(labels[0]))
        memory = [[[Memory.rest(len(layer.bias)) for _ in samples] for _ in range(2)] for layer in self.layers]
        for frame in frames:
            below = [frame, frame]
            for index, layer in enumerate(self.layers):
                before = memory[index]
                after = [[time_step(layer, below[s][n], labels[s][n], before[s][n]) for n in samples] for s in range(2)]
                self._update(layer, below, labels, before, after)
                memory[index] = after
                below = [[after[s][n].spikes for n in samples] for s in range(2)]

    def _update(
        self,
        layer: Layer,
        below: list[Rows],
        labels: tuple[list[int], list[int]],
        before: list[list[Memory]],
        after: list[list[Memory]],
    ) -> None:
        samples, units = range(len(labels[0])), range(len(layer.bias))
        gaps = [mean_of_squares(after[0][n].trace) - mean_of_squares(after[1][n].trace) for n in samples]
        self.losses.append(sum(softplus(-self.alpha * gap) for gap in gaps) / len(gaps))
        for sign, s in ((-1, 0), (1, 1)):
            for n in samples:
                memory = after[s][n]
                by_goodness = sign * self.alpha * sigmoid(-self.alpha * gaps[n]) / len(gaps)
                active = sum(before[s][n].spikes) / len(units)
                for i in units:
                    by_trace = by_goodness * 2 * memory.trace[i] / len(units)
                    surrogate = 1 / (1 + layer.slope * abs(memory.membrane[i] - 1)) ** 2
                    change = -self.rate * by_trace * (1 - layer.trace_decay) * surrogate
                    for j, spike in enumerate(below[s][n]):
                        layer.weight[i][j] += change * spike
                    layer.bias[i] += change
                    layer.context[labels[s][n]][i] += change * layer.label_scale
                    if layer.competition[i] > 0:
                        layer.competition[i] -= change * active
