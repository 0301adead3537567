"""Constants of a class of cores, for boards that were never measured, from a fit of many boards."""

from __future__ import annotations

import numpy as np
from hierarchy import Array, Hierarchy
from rows import Board


def core_classes(
    found: Hierarchy, boards: list[Board]
) -> list[tuple[str, int, tuple[Array, Array], int]]:
    """Classes with their constants: the mean of their boards, drawn to that of all.

    Returns:
        Core, number of threads, (mean, shape (K,), and covariance, shape (K, K), of the constants
        of a board), number of chips; sorted.
    """
    classes = []
    within = _within(found, boards)
    for (core, threads), members in sorted(_groups(boards).items()):
        chips = len({boards[i].chip for i in members})
        precision = np.linalg.inv(found.covariance)
        evidence = np.linalg.inv(within / chips)
        covariance = np.linalg.inv(precision + evidence)
        mean = found.mean + covariance @ evidence @ found.boards[members].mean(0)
        posterior = found.board_covariance[members].mean(0)
        classes.append((core, threads, (mean, covariance + within + posterior), chips))
    return classes


def _within(found: Hierarchy, boards: list[Board]) -> Array:
    """Covariance between boards of one class, pooled over the classes with several chips."""
    groups = _groups(boards)
    width = found.covariance.shape[0]
    total, free = np.zeros((width, width)), 0
    for members in groups.values():
        if len({boards[i].chip for i in members}) > 1:
            away = found.boards[members] - found.boards[members].mean(0)
            total += away.T @ away
            free += len(members) - 1
    weight = 5
    return np.asarray((total + weight * 0.3 * found.covariance) / (free + weight))


def _groups(boards: list[Board]) -> dict[tuple[str, int], list[int]]:
    """Positions of the boards by core and number of threads, where core and clock are known."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, board in enumerate(boards):
        if board.core is not None and board.clock_mhz is not None:
            groups.setdefault((board.core, board.threads), []).append(index)
    return groups
