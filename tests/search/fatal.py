"""A plug-in: a task that ends its process at one width."""

import sys

from einsearch_cli.data import TeacherSettings, TeacherTask, register_task
from einsearch_cli.models import ProxyModel
from einsearch_cli.structures import LayerSpec


class Fatal(TeacherTask):
    """The teacher task, but for one width."""

    def build_model(self, structure: LayerSpec, width: int) -> ProxyModel:
        if width == 24:
            sys.exit(3)
        return super().build_model(structure, width)


register_task("fatal", TeacherSettings)(Fatal)
