"""The graph under construction: values of tensors in both layouts, Q/DQ, names, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.errors import InputError, UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.export.tflite import ABSENT, Model, Operator, Quantization, Tensor
from edgec.export.tflite.marks import OPERATOR_KEY, TENSOR_KEY, mark

TO_FIRST = (0, 3, 1, 2)
TO_LAST = (0, 2, 3, 1)

QUANTIZED = ("INT8", "UINT8", "INT16")
"""Types that stand for real numbers where they have a scale; other integers are integers."""

Array = NDArray[Any]


@dataclass
class Form:
    """A tensor's value in one layout.

    Attributes:
        real: real numbers, or the plain integers of a tensor without a scale.
        stored: the integers behind `real`; None if it is not quantized.
    """

    real: ir.Value
    stored: ir.Value | None = None


@dataclass
class Entry:
    """What is known about a tensor: its forms channels-last (as in the file) and channels-first."""

    last: Form | None = None
    first: Form | None = None


@dataclass
class Context:
    """Translates one subgraph.

    Tensors keep the file's layout, unless the operator that computes them works channels-first in
    ONNX; who needs the other layout gets a Transpose, shared by all who need it. Between spatial
    operators nothing is transposed.

    Args:
        model: the file.
        where: its name, for messages.
        marked: values remember their tensors (`tflite.marks`), so that the file can be written as
            it is; then no Transposes are saved that the file has.

    Attributes:
        constants: what tensors are that operators on constants alone compute.
    """

    model: Model
    where: str
    marked: bool = False
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    operator: Operator | None = None
    position: int = 0
    _names: set[str] = field(default_factory=set)
    _numbers: dict[str, int] = field(default_factory=dict)
    _named: set[ir.Value] = field(default_factory=set)

    @property
    def place(self) -> str:
        """Where the current operator is, for messages."""
        code = self.operator.code if self.operator else ""
        return f"{self.where}, operator {self.position} {code}"

    def unsupported(self, what: str) -> UnsupportedError:
        """An error for a form of the current operator that is not translated."""
        return UnsupportedError(
            "EC305",
            what,
            where=self.place,
            fix="convert the network again in a form that edgec reads, or give the network itself",
        )

    def tensor(self, index: int) -> Tensor:
        """The tensor of an input or output.

        Raises:
            InputError: the operator lacks it (EC709).
        """
        if index == ABSENT:
            raise InputError("EC709", "a required input is absent", where=self.place)
        found = self.constants.get(index)
        return self.model.main.tensors[index] if found is None else found

    def name(self, base: str) -> str:
        """A name that no other value has."""
        name = base
        while name in self._names:
            self._numbers[base] = self._numbers.get(base, 0) + 1
            name = f"{base}_{self._numbers[base]}"
        self._names.add(name)
        return name

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for graph outputs, which are known before the values that will bear them."""
        self._names.update(names)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape in the file's layout."""
        return self.tensor(index).shape

    def constant(self, index: int, what: str) -> Array:
        """The stored content of a tensor that has to be constant.

        Raises:
            UnsupportedError: it is computed (EC305).
        """
        data = self.tensor(index).data
        if data is None:
            raise self.unsupported(f"{what} is computed by the network")
        return data

    def integers(self, index: int, what: str) -> list[int]:
        """The numbers of a constant list of integers, e.g. axes."""
        data = self.constant(index, what)
        if data.dtype.kind not in "iu":
            raise InputError("EC709", f"{what} is not a list of integers", where=self.place)
        return [int(n) for n in data.reshape(-1)]

    # Nodes

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """One node with one output; types and shapes are inferred in the end."""
        return self.multi(op_type, inputs, 1, **attributes)[0]

    def multi(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """One node with several outputs."""
        node = ir.Node(
            "",
            op_type,
            list(inputs),
            ir.convenience.convert_attributes(attributes),
            num_outputs=outputs,
            name=self.name(f"{op_type.lower()}_{self.position}"),
            metadata_props=self._metadata(),
        )
        for output in node.outputs:
            output.name = self.name(f"{node.name}_output")
        self.nodes.append(node)
        return node.outputs

    def _metadata(self) -> dict[str, str]:
        if self.operator is None:
            return {OPERATOR_KEY: self._place()} if self.marked else {}
        found = {OPERATOR_KEY: self._place()}
        path = module_path(self.tensor(self.operator.outputs[0]).name)
        if path:
            found[MODULE_KEY] = path
        return found

    def _place(self) -> str:
        code = "" if self.operator is None else f" {self.operator.code}"
        return f"{self.position}{code}"

    def mark(
        self, index: int, form: Form, order: Sequence[int] | None, real: ir.Value | None = None
    ) -> None:
        """Let the values of a tensor remember it.

        Args:
            order: of the stored axes; None for that of images behind channels-first values.
            real: what `form` was quantized from.
        """
        if not self.marked:
            return
        name = self.tensor(index).name or f"tensor_{index}"
        values = [form.stored, form.real]
        if real is not None and TENSOR_KEY not in real.metadata_props:
            values.append(real)  # else it is another tensor's, and this one its QUANTIZE
        for value in values:
            if value is not None:
                mark(value, name, TO_LAST if order is None else order)
        form.real.metadata_props[OPERATOR_KEY] = self._place()

    def initializer(self, array: Array, base: str) -> ir.Value:
        """A constant."""
        name = self.name(base)
        # big-endian machines aside a view; onnx-ir keeps a reference to it
        tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
            metadata_props={TENSOR_KEY: base} if self.marked else None,
        )
        self.initializers[name] = value
        return value

    def numbers(self, values: Sequence[int], base: str) -> ir.Value:
        """A constant int64 vector, for shapes and axes."""
        return self.initializer(np.asarray(values, np.int64), base)

    def scalar(self, value: float, like: Tensor) -> ir.Value:
        """A constant scalar of a tensor's real type."""
        dtype = np.float32 if is_quantized(like) else like.numpy_dtype
        return self.initializer(np.asarray(value, dtype), "scalar")

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """`value` in a static shape."""
        return self.emit(
            "Reshape", [value, self.numbers(shape, "shape")], allowzero=int(0 in shape)
        )

    # Reading tensors

    def first(self, index: int) -> bool:
        """Whether a tensor is computed channels-first."""
        entry = self.entries.get(index)
        return entry is not None and entry.last is None and entry.first is not None

    def read(self, index: int, *, first: bool = False) -> ir.Value:
        """The real numbers of a tensor, in the file's layout or channels-first (of rank 4)."""
        return self.form(index, first=first).real

    def form(self, index: int, *, first: bool) -> Form:
        """A tensor in one layout, transposed if it is not there yet.

        Raises:
            InputError: nothing computes it (EC707).
        """
        tensor = self.tensor(index)
        if index not in self.entries and tensor.data is not None:
            # not kept: constants that several operators read are merged later, where that helps
            return self.weight(index, TO_FIRST if first else range(len(tensor.shape)))
        entry = self.entries.get(index)
        if entry is None:
            raise InputError("EC707", f"nothing computes input {index}", where=self.place)
        found = entry.first if first else entry.last
        if found is None:
            other = entry.last if first else entry.first
            assert other is not None
            found = self.transposed(index, other, TO_FIRST if first else TO_LAST)
            self.mark(index, found, None if first else range(4))
            if first:
                entry.first = found
            else:
                entry.last = found
        return found

    def transposed(
        self, index: int, form: Form, perm: Sequence[int], *, stored: bool = True
    ) -> Form:
        """A tensor's form with its axes permuted: the integers, or only the real numbers."""
        if form.stored is None or not stored:
            return Form(self.emit("Transpose", [form.real], perm=list(perm)))
        moved = self.emit("Transpose", [form.stored], perm=list(perm))
        return self.dequantized(moved, self.tensor(index))

    def weight(self, index: int, perm: Sequence[int], shape: Sequence[int] | None = None) -> Form:
        """A constant with its axes permuted, then reshaped; stored as it is in the file.

        Args:
            perm: permutation of its axes.
            shape: of the result; only for tensors without scales per channel.
        """
        tensor = self.tensor(index)
        data = self.constant(index, "a constant").transpose(list(perm))
        if shape is not None:
            data = data.reshape(tuple(shape))
        stored = self.initializer(data, tensor.name or f"constant_{index}")
        if self.marked and shape is None:
            mark(stored, tensor.name, [list(perm).index(i) for i in range(len(perm))])
        if not is_quantized(tensor):
            return Form(stored)
        quantization = tensor.quantization
        assert quantization is not None
        axis = list(perm).index(quantization.axis) if quantization.per_channel else 0
        form = self.dequantized(stored, tensor, axis)
        if self.marked:  # equal integers are merged, what they stand for is not
            form.real.metadata_props.update(stored.metadata_props)
        return form

    def dequantized(self, stored: ir.Value, tensor: Tensor, axis: int = 0) -> Form:
        """Real numbers of stored integers, whose scales run along `axis`."""
        scale, zero = self._parameters(tensor)
        attributes = {"axis": axis} if scale.shape is not None and len(scale.shape) else {}
        return Form(self.emit("DequantizeLinear", [stored, scale, zero], **attributes), stored)

    def _parameters(self, tensor: Tensor) -> tuple[ir.Value, ir.Value]:
        quantization = tensor.quantization
        assert quantization is not None
        scale, zero = quantization.scale, quantization.zero_point
        if not np.all(scale > 0) and tensor.data is None:
            raise InputError(
                "EC709", "a computed tensor has the scale zero", where=self.place, why=tensor.name
            )
        base = tensor.name or "tensor"
        if not quantization.per_channel:
            scale, zero = scale.reshape(()), zero.reshape(())
        return (
            self.initializer(scale, f"{base}_scale"),
            self.initializer(zero.astype(tensor.numpy_dtype), f"{base}_zero_point"),
        )

    def reshaped(self, index: int, shape: Sequence[int]) -> ir.Value:
        """The real numbers in the file's order, in another shape."""
        if self.first(index) and not self.marked and _same_order(self.shape(index)):
            return self.reshape(self.read(index, first=True), shape)
        value = self.read(index)
        return value if tuple(shape) == self.shape(index) else self.reshape(value, shape)

    # Writing tensors

    def write(
        self, index: int, value: ir.Value, *, first: bool = False, activation: str = "NONE"
    ) -> None:
        """Let a tensor be `value`, after an activation and with the tensor's quantization."""
        tensor = self.tensor(index)
        if first and len(tensor.shape) != 4:
            raise InputError(
                "EC709", f"the output {list(tensor.shape)} is no image", where=self.place
            )
        value = self.activate(value, activation, tensor)
        base = tensor.name or f"tensor_{index}"
        form, real = Form(value), None
        if is_quantized(tensor):
            quantization = tensor.quantization
            assert quantization is not None
            if quantization.per_channel:
                raise self.unsupported("a computed tensor has scales per channel")
            scale, zero = self._parameters(tensor)
            stored = self.emit("QuantizeLinear", [value, scale, zero])
            stored.name = self.name(f"{base}_quantized")
            form, real = self.dequantized(stored, tensor), value
        elif tensor.quantization is not None and tensor.numpy_dtype.kind in "iu":
            raise self.unsupported(f"{tensor.dtype} stands for real numbers")
        self.call(form.real, base)
        self.mark(index, form, None if first else range(len(tensor.shape)), real)
        self.entries[index] = Entry(first=form) if first else Entry(last=form)

    def call(self, value: ir.Value, base: str) -> None:
        """Name a computed value after a tensor; the first name stays if tensors share it."""
        if value.producer() is not None and value not in self._named:
            value.name = self.name(base)
            self._named.add(value)

    def activate(self, value: ir.Value, activation: str, like: Tensor) -> ir.Value:
        """`value` after a fused activation function.

        Raises:
            UnsupportedError: an activation that no converter writes (EC305).
        """
        if activation == "NONE":
            return value
        if activation == "RELU":
            return self.emit("Relu", [value])
        if activation == "TANH":
            return self.emit("Tanh", [value])
        bounds = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
        if activation not in bounds:
            raise self.unsupported(f"the activation {activation}")
        low, high = bounds[activation]
        return self.emit("Clip", [value, self.scalar(low, like), self.scalar(high, like)])


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor's integers stand for real numbers."""
    return tensor.quantization is not None and tensor.dtype in QUANTIZED


def scales(tensor: Tensor) -> Quantization:
    """The quantization of a tensor that has one."""
    assert tensor.quantization is not None
    return tensor.quantization


def _same_order(shape: tuple[int, ...]) -> bool:
    """Whether (N, H, W, C) and (N, C, H, W) order their elements alike."""
    return len(shape) == 4 and (shape[3] == 1 or shape[1] * shape[2] == 1)


def module_path(name: str) -> str:
    """Module path in a tensor's name, e.g. ``model.conv1`` of ``model/conv1/Relu;model/bn/add``.

    TensorFlow joins the names of fused operators, the last one first.
    """
    path = name.split(";")[0].strip("/")
    return ".".join(path.split("/")[:-1])
