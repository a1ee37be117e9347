"""The tasks, by the name that `config.task` uses."""

from etils import epath
from jax.sharding import Mesh

from hbi_jax.tasks.answers.task import AnswerTask
from hbi_jax.tasks.captions.task import CaptionTask
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.estimator.task import EstimatorTask
from hbi_jax.tasks.retrieval.task import RetrievalTask
from hbi_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (RetrievalTask, EstimatorTask, AnswerTask, CaptionTask)}


def make_task(config: Config, mesh: Mesh, workdir: epath.Path) -> Task:
    """Builds the task named by `config.task`."""
    return TASKS[config.task](config, mesh, workdir)
