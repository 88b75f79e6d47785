"""What is read along a tree of texts, in passes of bounded size; what texts share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_llm_plugins.generation.engine import Alternatives
from mlflow_llm_plugins.generation.openvino.scoring.alternatives import most_probable
from mlflow_llm_plugins.generation.openvino.scoring.forward import ForwardModel, KeysAndValues, Question, Reading
from mlflow_llm_plugins.generation.openvino.scoring.steps import Step, steps
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow, ChoiceTree, Subtree
from mlflow_llm_plugins.generation.scoring.prefix_caches import PrefixCaches

_MOST_ROWS = 64  # of one pass: attention over more rows of few tokens gains nothing
_WORTH_KEEPING = 32  # tokens; fewer are computed again about as fast as they are kept

_Waiting = list[tuple[Subtree, KeysAndValues | None]]


class Readout:
    """What was read along each tail, in the order of its tokens."""

    def __init__(self, tails: int, top_logprobs: int = 0) -> None:
        """Nothing was read yet; so many of the most probable tokens are wanted at each place."""
        self.top_logprobs = top_logprobs
        self.logprobs: list[list[float]] = [[] for _ in range(tails)]
        self.alternatives: list[list[Alternatives]] = [[] for _ in range(tails)]


class TreeWalk:
    """Reads the tails of rows; nothing else may read on the model meanwhile.

    A subtree is read side by side where the keys and values of its sequences fit into `max_state_tokens`; of a larger
    one the beginning is read, and its branches go on from copies.
    """

    def __init__(
        self, model: ForwardModel, prefixes: PrefixCaches[KeysAndValues], *, pass_tokens: int, max_state_tokens: int
    ) -> None:
        """Take the model.

        Args:
            model: Compiled.
            prefixes: Beginnings of earlier calls.
            pass_tokens: Of one forward pass, at most; at least `_MOST_ROWS`.
            max_state_tokens: Whose keys and values are read side by side; one text may be longer.
        """
        self._model = model
        self._prefixes = prefixes
        self._pass_tokens = pass_tokens
        self._max_state_tokens = max_state_tokens

    def read(self, rows: Sequence[ChoiceRow], top_logprobs: int = 0) -> Readout:
        """What the model says along each tail."""
        tree = ChoiceTree(rows)
        readout = Readout(sum(len(row.tails) for row in rows), top_logprobs)
        reading = self._model.begin(self._prefixes.longest(tree.beginning))
        if len(tree.beginning) - reading.depth >= _WORTH_KEEPING:
            self._advance(tree, tree.whole, reading, readout, tree.common(tree.whole))
            self._prefixes.keep(tree.beginning, reading.keys_and_values())
        waiting = self._go_on(tree, tree.whole, reading, readout)
        while waiting:
            subtree, state = waiting.pop()
            waiting += self._go_on(tree, subtree, self._model.begin(state), readout)
        return readout

    def _go_on(self, tree: ChoiceTree, subtree: Subtree, reading: Reading, readout: Readout) -> _Waiting:
        """Read all of the subtree; or its beginning only, and return the branches that are left."""
        if self._fits(tree, subtree):
            self._advance(tree, subtree, reading, readout)
            return []
        self._advance(tree, subtree, reading, readout, tree.common(subtree))
        state = reading.keys_and_values() if reading.depth else None
        return [(branch, state) for branch in self._branches(tree, subtree)]

    def _advance(
        self, tree: ChoiceTree, subtree: Subtree, reading: Reading, readout: Readout, end: int | None = None
    ) -> None:
        for step in steps(tree, subtree, reading.depth, self._pass_tokens, end):
            _read_step(step, reading, readout)

    def _fits(self, tree: ChoiceTree, subtree: Subtree) -> bool:
        rows = range(subtree.first, subtree.end)
        if len(rows) == 1:
            return True
        return len(rows) <= _MOST_ROWS and sum(len(tree.sequence(row)) for row in rows) <= self._max_state_tokens

    def _branches(self, tree: ChoiceTree, subtree: Subtree) -> Iterator[Subtree]:
        """Its children, neighbours joined as far as they fit."""
        joined: Subtree | None = None
        for child in tree.children(subtree):
            wider = Subtree(joined.first if joined else child.first, child.end)
            if joined and not self._fits(tree, wider):
                yield joined
                wider = child
            joined = wider
        if joined:
            yield joined


def _read_step(step: Step, reading: Reading, readout: Readout) -> None:
    width = len(step.ids[0])
    at = [wanted.row * width + wanted.column for wanted in step.wanted]
    places = sorted(set(at))
    index_of = {place: index for index, place in enumerate(places)}
    picks = [(index_of[place], wanted.want.target) for place, wanted in zip(at, step.wanted, strict=True)]
    question = Question(places, picks, "logprobs" if readout.top_logprobs else None)
    answer = reading.read(step.ids, question, step.parents)
    for wanted, logprob in zip(step.wanted, answer.picked, strict=True):
        readout.logprobs[wanted.want.choice].append(logprob)
    if answer.vocabulary is not None:
        best = most_probable(answer.vocabulary, readout.top_logprobs)
        for place, wanted in zip(at, step.wanted, strict=True):
            readout.alternatives[wanted.want.choice].append(best[index_of[place]])
