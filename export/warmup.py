"""Warm-up records: requests that TensorFlow Serving answers to itself before a new version takes any traffic.

The first requests to a graph are the slow ones, and a batch size that has not been seen is slow again.
"""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.signatures import BYTES, EXPLAIN, PIXELS
from ladnn_tf.data.phantom_slice import example_png

FILE = "tf_serving_warmup_requests"  # TensorFlow Serving looks for this name, in `assets.extra`
BATCH_SIZES = (1, 2, 4, 8)


def write_requests(path: Path, image_size: int) -> int:
    """Writes a request for each signature and batch size, all of one phantom; the same bytes every time.

    Args:
        path: the file, in the form of a TFRecord of `PredictionLog`; its folder exists.
        image_size: side S of the images of the signature `pixels`, in pixels.

    Returns:
        The number of requests; TensorFlow Serving allows 1000.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        return _write_requests(path, image_size)
    except tf.errors.OpError as error:  # TensorFlow's own error for a full disk, say
        raise OSError(f"{path} cannot be written: {error.message}") from error


def _write_requests(path: Path, image_size: int) -> int:
    encoded = example_png()
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).resize((image_size, image_size)).convert("RGB"))
    count = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in BATCH_SIZES:
            files = tf.make_tensor_proto([encoded] * size, tf.string)
            inputs = {
                BYTES: {"image_bytes": files},
                EXPLAIN: {"image_bytes": files},
                PIXELS: {"images": tf.make_tensor_proto(np.stack([pixels] * size))},
            }
            for signature, tensors in inputs.items():
                request = predict_pb2.PredictRequest(inputs=tensors)
                request.model_spec.signature_name = signature
                log = prediction_log_pb2.PredictLog(request=request)
                # A map in a message has no order of its own.
                record = prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString(deterministic=True)
                writer.write(record)
                count += 1
    return count
