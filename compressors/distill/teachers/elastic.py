"""An elastic network as training runs it. Of a batch it gives the outputs of several sub-networks, which all learn the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from attar.compressors.distill.teachers.outputs import TeacherOutputs
from attar.compressors.elastic.order import put_first
from attar.compressors.elastic.space import Subnet
from attar.compressors.elastic.supernet import SlicedNet, Supernet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ElasticStudent(nn.Module):
    """A student of any kind as the whole of its sub-networks. A batch says which of them run.

    `student`: the whole, as it is trained alone. `wrap`: makes such a student of a model of a sub-network's sizes. As a teacher it speaks as
    the whole does.
    """

    def __init__(self, student: Any, wrap: Callable[[PreTrainedModel], nn.Module]) -> None:
        super().__init__()
        self.model = student.model
        self._student = (student,)  # no module of its own: its weights go by the model's names
        self._supernet, self._wrap = Supernet(student.model), wrap
        self._nets: dict[Subnet, SlicedNet] = {}
        self.train(student.training)

    @property
    def whole(self) -> Subnet:
        """The sizes of the whole."""
        return self._supernet.whole

    @property
    def reads(self) -> tuple[str, ...]:
        """What losses read beside the outputs."""
        return self._student[0].reads

    @reads.setter
    def reads(self, names: tuple[str, ...]) -> None:
        self._student[0].reads = names

    def put_first(self, axes: Sequence[str]) -> None:
        """Put the most important first along some axes, in place; see elastic/order.py."""
        put_first(self._supernet, axes)

    def net(self, subnet: Subnet) -> SlicedNet:
        """Return a sub-network, made once; what it keeps of a pass is that of its last one."""
        if subnet not in self._nets:
            self._nets[subnet] = SlicedNet(self._supernet, subnet, self._wrap)
        return self._nets[subnet]

    def forward(self, batch: Any) -> tuple[Tensor, ...]:
        """Return what each of the batch's sub-networks makes of it, in their order."""
        assert len(set(batch.subnets)) == len(batch.subnets), "each keeps what its last pass left"
        outputs = []
        for subnet in batch.subnets:
            net = self.net(subnet)
            net.wrapped.reads = self.reads
            outputs.append(net(batch))
        return tuple(outputs)

    def outputs(self, batch: Any, weights: Mapping[str, Tensor] | None = None) -> TeacherOutputs:
        """Return what the whole makes of a batch, as a teacher's outputs."""
        return self._student[0].outputs(batch, weights)

    def train(self, mode: bool = True) -> Self:
        """Return it in this mode, or in the one that the student insists on."""
        super().train(mode)
        self._student[0].train(mode)
        return self
