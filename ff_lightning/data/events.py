"""`EventDataModule`: recordings of event cameras as frames, read once and kept in memory."""

import math
from functools import cached_property

from ff_lightning.data.arguments import check_source, check_whole
from ff_lightning.data.event_files import EventSource
from ff_lightning.data.images import ImageDataModule
from ff_lightning.errors import positive


class EventDataModule(ImageDataModule):
    """N-MNIST, or recordings of the same form, as frames of events.

    Validation is cut from the training split; the test split is read by `test` only.

    Args:
        source: "nmnist" if the environment variable `FF_LIGHTNING_DATA` names a folder with a copy; or the path of a
            folder or tar archive with files `<id>.bs2` and lists `train*.txt` and `test*.txt`.
        steps: Number of frames of a recording, T.
        milliseconds: What the frames of a recording cover; later events are left out. N-MNIST has three movements of
            the camera, 105 ms each.
        batch_size: Training recordings in a batch of one device.
        eval_batch_size: Largest number of recordings in a batch of one device elsewhere.
        validation: Share (a float) or number (an int) of training recordings for validation; 0 for no validation.
        split_seed: Seed of the choice of validation recordings and of `limit`.
        limit: Use at most so many of the training recordings; None for all.
        shuffle_seed: Seed of the order of training.

    Shape:
        Batches are (x, y): (B, T, 2, 34, 34) float32, zeros and ones, and (B,) int64.

    Raises:
        InputError: A number is out of range.
    """

    def __init__(
        self,
        source: str = "nmnist",
        *,
        steps: int = 10,
        milliseconds: float = 315.0,
        batch_size: int = 100,
        eval_batch_size: int = 100,
        validation: int | float = 0.2,
        split_seed: int = 0,
        limit: int | None = None,
        shuffle_seed: int = 0,
    ) -> None:
        source = check_source(self, source, instead="It names a folder or an archive of recordings, or is 'nmnist'.")
        super().__init__(
            source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            validation=validation,
            split_seed=split_seed,
            limit=limit,
            shuffle_seed=shuffle_seed,
        )
        check_whole(self, "steps", steps, least=1)
        self.steps = steps
        self.milliseconds = positive("milliseconds", milliseconds)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Frames, polarities, height, width."""
        return self._events.image_shape

    @property
    def in_features(self) -> int:
        """Values of one frame, 2 * H * W: what a spiking network takes at a time step."""
        return math.prod(self.image_shape[1:])

    @cached_property
    def _events(self) -> EventSource:
        return EventSource(self.source, steps=self.steps, milliseconds=self.milliseconds)

    def _open(self) -> EventSource:
        return self._events
