"""`SpottingDataModule`: words strung together to running recordings, in which they are to be found."""

from typing import Any

from ff_lightning.data.arguments import check_whole
from ff_lightning.data.audio import AudioDataModule
from ff_lightning.data.order import rank_of
from ff_lightning.data.sound_augment import SoundAugment
from ff_lightning.data.sound_loader import SoundLoader, TrainingBatches
from ff_lightning.data.spectrograms import LogMel
from ff_lightning.data.streams import EvaluationStreams, Strung, TrainingStreams
from ff_lightning.errors import InputError, positive


class SpottingDataModule(AudioDataModule):
    """Spectrograms of running recordings made of single words, with the word that ends at every frame.

    Words of the training recordings are strung together anew in every epoch, with noise under and between them; those
    of validation and test in one fixed way. The class after those of the words is "no word".

    Args:
        source: see :class:`AudioDataModule`.
        stream_seconds: length of a recording in training.
        strung: how words are strung together; ``Strung()`` by default.
        words: words in a recording of validation and test, about.
        features: makes spectrograms; a running recording needs one with ``level``.
        **kwargs: see :class:`AudioDataModule`. Of ``augment``, the speed changes words and the rest spectrograms.

    Shape:
        Batches of training are (x, y): (B, 1, bands, T) float32 and (B, T) int64, -1 for frames that are not judged.
        Of others there are three parts; see `EvaluationStreams`.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        source: str,
        *,
        stream_seconds: float = 3.0,
        strung: Strung | None = None,
        words: int = 50,
        features: LogMel | None = None,
        **kwargs: Any,
    ) -> None:
        features = LogMel(level=15.0) if features is None else features
        if features.level is None:
            raise InputError(
                "Passed `features` with `level=None`, which compares with the loudest value of the whole recording. A "
                "running one needs a fixed `level`, such as 15."
            )
        super().__init__(source, features=features, **kwargs)
        check_whole(self, "words", words, least=1)
        self.stream_seconds = positive("stream_seconds", stream_seconds)
        self.strung = Strung() if strung is None else strung
        self.words = words

    @property
    def num_classes(self) -> int:
        """Number of classes: the words, and "no word", which is the last."""
        return self.no_word + 1

    @property
    def no_word(self) -> int:
        """The class of frames without a word."""
        return len(self.class_names)

    @property
    def bands(self) -> int:
        """Rows of a spectrogram."""
        return self.features.height

    @property
    def frame_seconds(self) -> float:
        """Seconds from a frame to the next."""
        return self.features.hop / 1000

    def _training_batches(self) -> TrainingBatches:
        augment = SoundAugment() if self.augment is None else self.augment
        samples = round(self.stream_seconds * self.rate)
        return TrainingStreams(self._parts["train"], self.features, self.strung, samples, self.no_word, augment)

    def _in_order(self, part: str) -> SoundLoader:
        streams = EvaluationStreams(
            self._parts[part], self.features, self.strung, self.words, self.no_word, self.split_seed
        )
        rank, world_size = rank_of(self.trainer)
        return SoundLoader(streams, batch_size=1, rank=rank, world_size=world_size)
