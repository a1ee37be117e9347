"""Video question answering with an answer head at every level, evaluated by accuracy."""

import functools
import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from hbi_jax.data.datasets import DataError, Record
from hbi_jax.data.source import FILLING, Source
from hbi_jax.fields import ConfigError
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.report.report import Picture
from hbi_jax.tasks.answers.batch import AnswerBatch
from hbi_jax.tasks.answers.evaluator import (
    Answered,
    AnswerEvaluator,
    Method,
    accuracies,
    accuracy_table,
    most_frequent_answers,
)
from hbi_jax.tasks.answers.objective import answer_loss
from hbi_jax.tasks.answers.pictures import Example, plot_answers
from hbi_jax.tasks.answers.vocabulary import Vocabulary
from hbi_jax.tasks.config import Config, read_config
from hbi_jax.tasks.gallery import Program
from hbi_jax.tasks.several import abstract_several, several_texts
from hbi_jax.tasks.task import Results, Task, init_model
from hbi_jax.tasks.teacher import make_teacher
from hbi_jax.tasks.weights import open_checkpoint, workdir_of
from hbi_jax.tasks.workdir import check_evaluated
from hbi_jax.train.step import LossFn
from hbi_jax.types import Batch

_log = logging.getLogger(__name__)

VOCABULARY = "vocabulary.json"
PROTOCOL = (
    "Accuracy is the share of questions whose likeliest answer is the annotated one, letter for letter.",
    "All questions: a question whose answer is not in the vocabulary counts as wrong. Answer in the vocabulary: such "
    "questions are left out, as in the published code.",
)
# Sentences that explain the rows of the table.
QUESTION_ONLY = "Question only: all frames have the same features, in training and in this evaluation."
NO_VIDEO = (
    "No video: the trained weights where all frames have the same features, an input that they never saw in training. "
    "A fairer baseline is a model trained with config.answers.question_only; config.eval.question_only_run "
    "adds one to this table."
)
MOST_FREQUENT = (
    "Most frequent training answer: to the same question or, if it is not in the training split, to questions of its "
    "type."
)
# Answers in the vocabulary of the published data (docs/data.md and the files of configs/), and of other data.
_DISTRIBUTED, _FEW = {"msrvtt_qa": 1500, "msvd_qa": 1852, "activitynet_qa": 1654}, 1000


class AnswerTask(Task):
    """HBI with an answer head at every level.

    Attributes:
      vocabulary: The answer vocabulary.
    """

    name = "answers"

    def __init__(self, config: Config, mesh: Mesh, workdir: epath.Path, vocabulary: Vocabulary | None = None):
        super().__init__(config, mesh, workdir)
        self.vocabulary = vocabulary or self._make_vocabulary()
        settings = config.answers
        self.model = AnswerHBI(config.model, len(self.vocabulary), settings.dropout_rate, settings.question_only)
        self.evaluator = self._make_evaluator(self.model)

    @classmethod
    def of_run(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> "AnswerTask":  # noqa: D102
        return cls(config, mesh, workdir, Vocabulary.read(workdir / VOCABULARY))

    @classmethod
    def without_data(cls, config: Config, mesh: Mesh, workdir: epath.Path) -> tuple["AnswerTask", list[str]]:  # noqa: D102
        settings, dataset = config.answers, config.data.dataset
        count = settings.top_answers or _DISTRIBUTED.get(dataset, _FEW)
        vocabulary = Vocabulary(tuple(f"answer {number}" for number in range(count)))
        return cls(config, mesh, workdir, vocabulary), [f"the vocabulary has {count:,} answers"]

    def _make_vocabulary(self) -> Vocabulary:
        """Reads the vocabulary that `config.answers` names, or builds it from the training split."""
        settings = self.config.answers
        if settings.vocabulary:
            return Vocabulary.read(self.dataset.folder("annotations") / settings.vocabulary)
        answers = [record.answer for record in self.dataset.split("train").records]
        return Vocabulary.build(answers, settings.top_answers or None, settings.min_count)

    def _make_evaluator(self, model: AnswerHBI) -> AnswerEvaluator:
        config = self.config
        return AnswerEvaluator(model, self.mesh, batch_size=config.eval.batch_size, level_rates=config.level_rates)

    def init_params(self) -> PyTree:  # noqa: D102
        return init_model(self.model, self.config)

    def load_init(self, params: PyTree) -> PyTree:  # noqa: D102
        if self.config.init:
            self.check_workdir(workdir_of(self.config.init))
        return super().load_init(params)

    def loss_fn(self) -> LossFn:  # noqa: D102
        teacher = make_teacher(self.config.loss, self.config.model.padding)
        return functools.partial(answer_loss, self.model, self.config.loss, teacher)

    def claim_workdir(self) -> None:  # noqa: D102
        if self.config.eval.question_only_run:
            # Check the run before training, so that errors surface early.
            self._question_only_config()
        self.vocabulary.write(self.workdir / VOCABULARY)

    def check_workdir(self, workdir: epath.Path) -> None:  # noqa: D102
        file = workdir / VOCABULARY
        if not file.exists():
            return
        theirs, ours = Vocabulary.read(file).answers, self.vocabulary.answers
        if theirs != ours:
            what = f"{len(theirs)} answers"
            if len(theirs) == len(ours):
                number = next(n for n, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
                what = f"{theirs[number]!r} as answer {number}, where this run has {ours[number]!r}"
            raise ConfigError(
                f"{file}: the checkpoints of that folder have {what}: wanted the {len(ours)} answers of this run, "
                f"numbered alike; set config.answers.vocabulary={file}, or choose other weights"
            )

    def abstract_batch(self) -> AnswerBatch:  # noqa: D102
        batch, count = super().abstract_batch(), self.config.answers.questions_per_video
        if count == 1:
            return AnswerBatch(batch, batch.record_index)
        return AnswerBatch(batch, *abstract_several(count, batch.record_index, batch.token_ids, batch.text_mask))

    def evaluation_programs(self) -> dict[str, Program]:  # noqa: D102
        return self.evaluator.programs(self.abstract_params(), self.abstract_rows(self.evaluator.encoder.batch_size))

    def completion(self, source: Source) -> Callable[[Batch, int], AnswerBatch]:  # noqa: D102
        answers = np.array([self.vocabulary.index(record.answer) for record in source.split.records], np.int32)
        count, seed = self.config.answers.questions_per_video, self.config.seed

        def complete(batch: Batch, step: int) -> AnswerBatch:
            if count == 1:
                return AnswerBatch(batch, answers[batch.record_index])
            records, *texts = several_texts(source, batch, count, seed, step)
            return AnswerBatch(batch, np.where(records == FILLING, -1, answers[records]), *texts)

        return complete

    def validate(self, params: PyTree, source: Source) -> dict[str, float]:  # noqa: D102
        answered = self.evaluator.answer(params, source, self.config.data.num_threads)
        everything, known = accuracies(self._texts(answered), _asked(answered, source), self.vocabulary)
        by_type = {f"{kind.replace(' ', '_')}/accuracy": value for kind, value in everything.by_type.items()}
        # If the vocabulary has none of the answers, every question is answered wrong.
        answerable = 0.0 if known is None else known.overall
        return {"accuracy": everything.overall, "in_vocabulary/accuracy": answerable} | by_type

    def evaluate(self, params: PyTree, label: str) -> Results:  # noqa: D102
        config, threads = self.config, self.config.data.num_threads
        question_only = config.answers.question_only
        own = f"{config.name}{', question only' if question_only else ''}, {label}"
        blind = {} if question_only or not config.eval.baselines else self._blind_params(params)
        tables, pictures, dataset, unreadable = [], [], {"answers in the vocabulary": len(self.vocabulary)}, {}
        for name in self.dataset.galleries:
            source = self.source(name)
            answered = self.evaluator.answer(params, source, threads)
            asked = _asked(answered, source)
            methods = {own: Method(self._texts(answered), QUESTION_ONLY if question_only else "")}
            for row, (weights, note) in blind.items():
                methods[row] = Method(self._texts(self._blind.answer(weights, source, threads)), note)
            if config.eval.baselines and self._training:
                frequent = most_frequent_answers(self._training, asked)
                methods["most frequent training answer"] = Method(frequent, MOST_FREQUENT)
            tables.append(accuracy_table(f"Questions {name!r}", methods, asked, self.vocabulary))
            if not pictures and config.eval.num_pictures and jax.process_index() == 0:
                path = self.workdir / "pictures" / "answers.png"
                plot_answers(self._examples(answered, source), path)
                pictures = [Picture(str(path), f"Questions of {name!r} answered right and wrong, with probabilities.")]
            dataset |= {f"{name} questions": len(source.split.records), f"{name} videos": source.split.num_videos}
            unreadable |= source.unreadable
        return Results(dataset, unreadable, tables=tables, pictures=pictures, protocol=PROTOCOL)

    @functools.cached_property
    def _blind(self) -> AnswerEvaluator:
        """The evaluator of a model that does not see the frames."""
        return self._make_evaluator(self.model.clone(question_only=True))

    def _blind_params(self, params: PyTree) -> dict[str, tuple[PyTree, str]]:
        """Returns the weights of the baseline without video and its explanation, by the name of its row."""
        path = self.config.eval.question_only_run
        if not path:
            return {"no video": (params, NO_VIDEO)}
        best = self._question_only_config().eval.best_metric
        with open_checkpoint(path, best) as (checkpoints, step):
            restored = checkpoints.restore_params(self.abstract_params(), step)
            return {f"question only, step {step}": (restored, QUESTION_ONLY)}

    def _question_only_config(self) -> Config:
        """Returns the configuration of `config.eval.question_only_run` after checking that it suits this run."""
        path = self.config.eval.question_only_run
        workdir = workdir_of(path)
        try:
            config = read_config(workdir / "config.json")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"config.eval.question_only_run={path!r}: wanted the work folder of a finished run ({error}); correct "
                "it, or leave it empty"
            ) from error
        if config.task != self.name or not config.answers.question_only:
            raise ConfigError(
                f"config.eval.question_only_run={path!r} has config.task={config.task!r} and "
                f"config.answers.question_only={config.answers.question_only}: wanted {self.name!r} and True; train "
                "one with --config.answers.question_only=True"
            )
        check_evaluated(self.config, workdir)
        self.check_workdir(workdir)
        return config

    @functools.cached_property
    def _training(self) -> Sequence[Record]:
        """The training questions, or none (with a warning) if the training split cannot be read."""
        try:
            return self.dataset.split("train").records
        except DataError as error:
            _log.warning("the report has no row of the most frequent training answer: %s", error)
            return ()

    def _texts(self, answered: Answered) -> list[str]:
        """Returns the likeliest answers as text."""
        return [self.vocabulary.answers[number] for number in answered.answers[:, 0]]

    def _examples(self, answered: Answered, source: Source) -> list[Example]:
        """Returns right answers, then wrong ones, spread evenly over the split; half of each if there are enough."""
        asked = _asked(answered, source)
        right = np.array([text == record.answer for text, record in zip(self._texts(answered), asked, strict=True)])
        chosen, count = [], self.config.eval.num_pictures
        for rows, wanted in ((np.flatnonzero(right), -(-count // 2)), (np.flatnonzero(~right), count)):
            few = min(wanted, count - len(chosen), len(rows))
            chosen += rows[np.linspace(0, len(rows) - 1, few).astype(int)].tolist()
        video_index = source.split.video_index[answered.record_index[chosen]]
        frames, frame_mask, _ = source.video_rows(video_index)
        return [
            Example(
                frames=clip[mask],
                question=asked[row].text,
                answer=asked[row].answer,
                guesses=[self.vocabulary.answers[number] for number in answered.answers[row]],
                probabilities=answered.probabilities[row],
            )
            for row, clip, mask in zip(chosen, frames, frame_mask, strict=True)
        ]


def _asked(answered: Answered, source: Source) -> list[Record]:
    """Returns the questions that were answered."""
    return [source.split.records[index] for index in answered.record_index]
