"""`TrainMetrics`: figures of a step's own predictions: functions of a batch, and metrics that add up over an epoch."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.step.base import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class TrainMetrics:
    """Train metrics by name.

    A function of (predictions, targets) is called once an iteration. An object such as torchmetrics has (`update`, `compute`,
    `reset`) gives the figure of the iteration alone too; and it is updated with what is committed, and gives that of the whole
    epoch, as `epoch_<name>`, at its end. What it has added up is part of the state.

    Args:
        metrics: By name.
    """

    def __init__(self, metrics: Mapping[str, Callable[[Any, Any], Any]]) -> None:
        self._all = metrics
        self._adding: dict[str, Any] = {name: one for name, one in metrics.items() if _adds_up(one)}
        self._seen: tuple[Any, Any] | None = None

    def to(self, device: torch.device) -> None:
        """Move what adds up to where the predictions are."""
        for metric in self._adding.values():
            if hasattr(metric, "to"):
                metric.to(device)

    def of(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """The figures of an iteration; nothing is added up yet."""
        if not self._all:
            return {}
        self._seen = (predictions, targets) if self._adding else None
        with torch.no_grad():
            return {
                name: measured(name, self._alone(name) or metric, predictions, targets)
                for name, metric in self._all.items()
            }

    def _alone(self, name: str) -> Callable[[Any, Any], Any] | None:
        metric = self._adding.get(name)
        if metric is None:
            return None

        def once(predictions: Any, targets: Any) -> Any:
            fresh = copy.deepcopy(metric)
            fresh.reset()
            fresh.update(predictions, targets)
            return fresh.compute()

        return once

    def commit(self) -> None:
        """Add up what the last iteration's figures were of."""
        seen, self._seen = self._seen, None
        if seen is not None:
            for metric in self._adding.values():
                metric.update(*seen)

    def forget(self) -> None:
        """Leave the last iteration out."""
        self._seen = None

    def end_epoch(self) -> dict[str, Any]:
        """The figures of the epoch; the next one begins."""
        found = {f"epoch_{name}": metric.compute() for name, metric in self._adding.items()}
        for metric in self._adding.values():
            metric.reset()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What was added up, by metric; empty where nothing is."""
        return {name: _state_of(metric) for name, metric in self._adding.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, metric in self._adding.items():
            metric.reset()
            saved = copy.deepcopy(state[name])
            metric._update_count = saved.pop("updates", 0)  # noqa: SLF001 - torchmetrics warns where it is 0
            for key, value in saved.items():
                setattr(metric, key, value)


def _adds_up(metric: Any) -> bool:
    return all(hasattr(metric, name) for name in ("update", "compute", "reset", "metric_state"))


def _state_of(metric: Any) -> dict[str, Any]:
    state = {key: copy.deepcopy(value) for key, value in metric.metric_state.items()}
    return state | {"updates": int(getattr(metric, "_update_count", 0))}
