"""Files at which the page itself fails: noted for the operator, and told as the reason of that file alone."""

import logging
import traceback

from serving.page.reasons import PREFIX
from serving.page.words import words_of

CODE = "file_failed"
"""The reason's code in the audit log, and the key of its text without `reasons.PREFIX`."""

logger = logging.getLogger("ladnn_tf.serving")


def file_failed(error: Exception) -> str:
    """Logs where reading a file failed; the error's own words may quote the file, and so they are not logged.

    Args:
        error: one that nobody expected.

    Returns:
        Why the file has no answer; one of the English reasons.
    """
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("an uploaded file could not be read: %s at\n%s", type(error).__name__, where)
    return words_of("en")(f"{PREFIX}{CODE}")
