"""A plug-in: a task that ends its process at one width."""

import sys

from einsearch_cli.models import StructuredNetwork
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import register
from einsearch_cli.tasks.teacher import TeacherTask


class Fatal(TeacherTask):
    """The teacher task, except at one width."""

    name = "fatal"

    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        if width == 24:
            sys.exit(3)
        return super().build_model(structure, width)


register(Fatal)
