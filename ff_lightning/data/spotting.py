"""`SpottingDataModule`: words strung together to running recordings, in which they are to be found."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

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
        augment: changes words (``speed``) and spectrograms in training; ``shift`` and ``noise`` are refused, since
            ``strung`` says where words lie and how much noise there is.
        eval_batch_size: unused: running recordings are evaluated one at a time. ``None`` where nothing is asked for.
        **kwargs: see :class:`AudioDataModule`.

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
        augment: SoundAugment | None = None,
        eval_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        features = LogMel(level=15.0) if features is None else features
        if features.level is None:
            raise InputError(
                "Passed `features` with `level=None`, which compares with the loudest value of the whole recording. A "
                "running one needs a fixed `level`, such as 15."
            )
        _refuse_for_words(augment)
        given = 1 if eval_batch_size is None else eval_batch_size
        super().__init__(source, features=features, augment=augment, eval_batch_size=given, **kwargs)
        if given != 1:
            rank_zero_info(f"Running recordings are evaluated one at a time; `eval_batch_size={given}` is unused.")
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

    def row_names(self, split: str, rows: Sequence[int]) -> list[str]:
        """What to call running recordings of a split: their numbers."""
        return [f"running recording {row} of {split}" for row in rows]

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


def _refuse_for_words(augment: SoundAugment | None) -> None:
    """Refuse changes of a recording that words strung together do not get.

    Raises:
        InputError: one was asked for.
    """
    instead = {"shift": "words lie at random places, see `strung.gap`", "noise": "set `strung.noise`"}
    for name, why in instead.items():
        value = getattr(augment, name, None)
        if value:
            raise InputError(
                f"Passed `SpottingDataModule(augment=SoundAugment({name}={value}))`. Words in a running recording take "
                f"`speed`, `stretch`, `colour` and masks; leave `{name}` out: {why}."
            )
