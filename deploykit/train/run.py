"""A run on its device: one step, one validation, and where it stands.

Every draw of a step depends on the seed, the epoch and the step's number only, and the learning
rate on the number alone, so that a run goes on from any step with what `State` holds.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from deploykit.core.errors import BadInputError, EnvironmentFailedError
from deploykit.train.augment import augment
from deploykit.train.average import averaged
from deploykit.train.checkpoint import State, Weights
from deploykit.train.draws import Draws
from deploykit.train.fit import in_layout, layout_for
from deploykit.train.global_norm import synchronised
from deploykit.train.learning import Learning
from deploykit.train.mix import mixed
from deploykit.train.objective import Target, Terms, total
from deploykit.train.optimizer import optimizer_for
from deploykit.train.pixels import Pixels
from deploykit.train.room import Need, advice, check_room, need_of
from deploykit.train.samples import Batches, InOrder, Samples, loader, one_seed
from deploykit.train.schedule import learning_rate

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel
    from torch.utils.data import DataLoader

    from deploykit.load.data import Data
    from deploykit.train.objective import Loss
    from deploykit.train.options import TrainOptions
    from deploykit.train.tasks import Task

Loader: TypeAlias = "DataLoader[tuple[Tensor, ...]]"

_MOST_JUDGED = 512
"""So many at once, and never more than a step learns from, so that judging takes no more memory."""
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Run:
    """What stays the same from step to step; the tensors in it change."""

    accelerator: Accelerator
    learning: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    order: Batches
    batches: Loader
    val: Loader
    task: Task
    pixels: Pixels
    layout: torch.memory_format
    need: Need
    options: TrainOptions

    @classmethod
    def start(
        cls,
        module: nn.Module,
        splits: tuple[Data, Data],
        options: TrainOptions,
        loss: Loss,
        task: Task,
    ) -> Run:
        """Put everything where it runs.

        Args:
            module: copied.
            splits: what is learnt from, and what is judged by.
            options: of the training.
            loss: what is minimised.
            task: what the labels ask for.

        Raises:
            BadInputError: network, data and options do not fit together.
            EnvironmentFailedError: a step does not fit the memory that is left.
        """
        data, val = splits
        layout = layout_for(module, data, val)
        need = need_of(deepcopy(module).cpu(), lambda n: Samples.first(data, n), task, options)
        # Parameters that get no gradient would leave the other processes waiting for it.
        unused = DistributedDataParallelKwargs(find_unused_parameters=not need.all_learn)
        # Accelerate finds a launcher's other processes on a CPU only where it is told of the CPU.
        on_cpu = "RANK" in os.environ and not torch.accelerator.is_available()
        accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[unused])
        processes, process = accelerator.num_processes, accelerator.process_index
        samples = _samples(data, options, processes)
        part = _largest_part(options, processes)
        check_room(need, part, options, accelerator.device, processes)
        net = deepcopy(module).to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs
        learning = Learning(net, loss, task)
        if processes > 1:
            learning.net = synchronised(learning.net, accelerator.device)
        learning.to(accelerator.device)
        optimizer = optimizer_for(learning, options)
        average = averaged(learning.net, options.average) if options.average else None
        order = Batches(
            len(samples), options.batch_size, options.seed, processes=processes, process=process
        )
        pinned = accelerator.device.type == "cuda"
        judged = InOrder(len(val), min(part, _MOST_JUDGED), processes=processes, process=process)
        return cls(
            accelerator=accelerator,
            learning=accelerator.prepare_model(learning),
            optimizer=optimizer,
            average=average,
            order=order,
            batches=loader(samples, order, workers=options.workers, pinned=pinned),
            val=loader(Samples(val), judged, workers=options.workers, pinned=pinned),
            task=task,
            pixels=Pixels.of(data.preprocessing),
            layout=layout,
            need=need,
            options=options,
        )

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.order)

    @property
    def plain(self) -> Learning:
        """Network and loss without what spreads them over processes."""
        found: Learning = self.accelerator.unwrap_model(self.learning)
        return found

    def step(self, batch: tuple[Tensor, ...], epoch: int, number: int) -> list[Terms]:
        """Learn from one batch.

        Args:
            batch: this process's part: inputs, then labels.
            epoch: counted from 0.
            number: of the batch in the epoch, counted from 0.

        Returns:
            The terms of each part that it was calculated in.

        Raises:
            BadInputError: outputs, labels and options do not fit together.
            EnvironmentFailedError: there is not enough memory; the message says what fits.
        """
        steps, place = self.options.epochs * self.per_epoch, epoch * self.per_epoch + number
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options, place, steps)
        # Dropout draws from the global generator.
        seeds = self.options.seed, epoch, number
        torch.manual_seed(one_seed(*seeds, self.accelerator.process_index + 1))
        try:
            inputs, targets = self._prepared(batch, seeds)
            found = self._gradients(inputs, targets, self._items(batch[-1]), place / steps)
            if self.options.clip_norm:
                self.accelerator.clip_grad_norm_(self.learning.parameters(), self.options.clip_norm)
            self.optimizer.step()
        except RuntimeError as error:
            raise self._explained(error, len(batch[0])) from error
        if self.average is not None:
            self.average.update_parameters(self.plain.net)
        return found

    def _prepared(
        self, batch: tuple[Tensor, ...], seeds: tuple[int, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Target, ...]]:
        """Inputs on the device, augmented, and what is wanted of them."""
        device, count = self.accelerator.device, len(batch[0])
        draws = Draws.of(
            *seeds,
            total=count * self.accelerator.num_processes,
            first=count * self.accelerator.process_index,
            count=count,
        )
        *inputs, labels = (part.to(device, non_blocking=True) for part in batch)
        images = augment(inputs[0], self.options, self.pixels, draws)
        several, targets = mixed((images, *inputs[1:]), labels, self.options, draws)
        return tuple(in_layout(part, self.layout) for part in several), targets

    def _gradients(
        self,
        inputs: tuple[Tensor, ...],
        targets: tuple[Target, ...],
        items: float,
        progress: float,
    ) -> list[Terms]:
        """Gradients of the whole batch, part by part."""
        count, parts = len(inputs[0]), self.options.accumulate
        size = count // parts
        found = []
        for first in range(0, count, size):
            mine = slice(first, first + size)
            last = first + size == count
            with nullcontext() if last else self.accelerator.no_sync(self.learning):
                terms = self._terms(
                    tuple(one[mine] for one in inputs),
                    tuple(Target(one.labels[mine], one.share) for one in targets),
                    progress,
                    items / parts,
                )
                if not first:
                    # Not earlier: while the last gradients stay, the C library keeps the memory
                    # of a step, and the next one does not have to ask the system for all of it.
                    self.optimizer.zero_grad()
                (total(terms) / parts).backward()  # type: ignore[no-untyped-call]  # torch's own
            found.append(terms)
        return found

    def _terms(
        self,
        inputs: tuple[Tensor, ...],
        targets: tuple[Target, ...],
        progress: float,
        items: float,
    ) -> Terms:
        enabled = self.options.precision == "bfloat16"
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled):
            found: Terms = self.learning(inputs, targets, progress, items)
        return found

    def _items(self, labels: Tensor) -> float:
        """Labels of the whole batch, shared out equally among the processes."""
        count = self.task.items(labels)
        if self.accelerator.num_processes == 1:
            return max(count, 1)
        return max(float(self.mean(torch.tensor([float(count)]))), 1.0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, on the CPU."""
        if self.accelerator.num_processes == 1:
            return values.cpu()
        found = self.accelerator.reduce(values.to(self.accelerator.device), "mean")
        return found.cpu()  # type: ignore[no-any-return]  # a tensor went in

    def judge(self) -> float:
        """How good the weights are on the validation data, in float32, as they will be exported."""
        net = self.judged_net.eval()
        total_score, count = 0.0, 0
        with torch.inference_mode():
            for batch in self.val:
                *inputs, labels = (part.to(self.accelerator.device) for part in batch)
                outputs = net(*(in_layout(part, self.layout) for part in inputs))
                score, items = self.task.score(outputs, labels)
                total_score += float(score)
                count += items
        total_score, count = self.mean(torch.tensor([total_score, count], dtype=torch.float64))
        if not count:
            raise BadInputError("the validation data has no labels to judge by")
        return float(total_score) / float(count)

    @property
    def judged_net(self) -> nn.Module:
        """The network whose weights count: the mean of all steps', or the last step's."""
        return self.plain.net if self.average is None else self.average.module

    def state(self) -> State:
        """What the next step depends on, copied."""
        return State(
            _copied(self.plain.net),
            deepcopy(self.optimizer.state_dict()),
            {} if self.average is None else _copied(self.average),
            {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.plain.loss_state().items()
            },
        )

    def judged_weights(self) -> Weights:
        """Those that `judge` judges, copied."""
        return _copied(self.judged_net)

    def load(self, state: State) -> None:
        """Go on from there."""
        self.plain.net.load_state_dict(state.weights)
        self.plain.load_loss_state(state.loss)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None:
            self.average.load_state_dict(state.average)

    def _explained(self, error: RuntimeError, samples: int) -> Exception:
        """A device out of memory in words; any other error as it is."""
        text = str(error).lower()
        if not any(words in text for words in _OUT_OF_MEMORY):
            return error
        part = samples // self.options.accumulate
        left = self.need.of(part) * 3 // 4
        return EnvironmentFailedError(
            f"out of memory with {part} samples at once; "
            f"{advice(self.need, part, self.options, left)}"
        )


def _samples(data: Data, options: TrainOptions, processes: int) -> Samples:
    """What is learnt from.

    Raises:
        BadInputError: there are fewer samples than a batch, or a batch cannot be shared out.
    """
    if len(data) < options.batch_size:
        raise BadInputError(
            f"{data.name} has {len(data)} samples, fewer than a batch of {options.batch_size}; "
            f"set batch_size = {len(data)} or less"
        )
    shares = processes * options.accumulate
    if options.batch_size % shares:
        less = options.batch_size // shares * shares
        raise BadInputError(
            f"a batch of {options.batch_size} cannot be shared out equally among {processes} "
            f"processes with accumulate = {options.accumulate}; set batch_size = {less or shares}"
        )
    return Samples(data)


def _largest_part(options: TrainOptions, processes: int) -> int:
    return options.batch_size // (processes * options.accumulate)


def _copied(net: nn.Module) -> Weights:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in net.state_dict().items()
    }
