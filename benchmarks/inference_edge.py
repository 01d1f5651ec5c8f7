"""The shipped edge predictor, from encoded files, its chest-CT check included."""

from collections.abc import Callable, Sequence

from ladnn_tf.answer import Answer
from ladnn_tf.edge import EdgePredictor


def load(model: str, threads: int) -> Callable[[Sequence[bytes]], list[Answer]]:
    """Loads a TFLite file with its card.

    Args:
        model: its path.
        threads: of the CPU.

    Returns:
        From encoded images to answers.
    """
    # What was converted for the clock was never compared with its run.
    predictor = EdgePredictor(model, allow_unfit=True, threads=threads)

    def answer(encoded: Sequence[bytes]) -> list[Answer]:
        results = predictor.predict(encoded)
        silent = [result.reason or result.error for result in results if result.covid is None]
        if silent:
            raise ValueError(f"the edge predictor gave no answer: {silent[0]}")
        return results

    return answer
