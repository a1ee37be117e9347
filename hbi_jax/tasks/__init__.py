"""The kinds of jobs: `config.task` names one."""

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hbi_jax.tasks.answers import AnswerTask
from hbi_jax.tasks.captions import CaptionTask
from hbi_jax.tasks.estimator import EstimatorTask
from hbi_jax.tasks.retrieval import RetrievalTask
from hbi_jax.tasks.task import Results, Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (RetrievalTask, EstimatorTask, AnswerTask, CaptionTask)}


def make_task(config: ConfigDict, mesh: Mesh, workdir: epath.Path) -> Task:
    """The task that `config.task` names."""
    return TASKS[config.task](config, mesh, workdir)


__all__ = ["TASKS", "AnswerTask", "CaptionTask", "EstimatorTask", "Results", "RetrievalTask", "Task", "make_task"]
