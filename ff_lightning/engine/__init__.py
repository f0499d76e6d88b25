"""How local losses become updates, under any strategy and precision, and how a training is kept."""
