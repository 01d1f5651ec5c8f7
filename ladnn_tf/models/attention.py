"""Attention in the forward pass: class activation maps of a trunk, global average pooling and a dense layer.

Grad-CAM++ (Chattopadhay et al. 2018) needs no gradient here. Let `A_k` be channel k of the last feature map, with
`n = h w` positions, `y_c = sum_k w_kc mean(A_k) + b_c` the logit of label c, and `Y_c = exp(y_c)` its score. As
`y_c` is linear in `A`, its derivative `g_kc = w_kc / n` is the same at every position, and the derivatives of
`Y_c` of the first three orders are `Y_c g_kc`, `Y_c g_kc^2`, `Y_c g_kc^3`. Hence the paper's

    alpha_kc = Y_c g_kc^2 / (2 Y_c g_kc^2 + sum(A_k) Y_c g_kc^3) = 1 / (2 + w_kc mean(A_k))

does not depend on the position either, and the weight of a channel (equation 5), a sum over positions, is

    sum alpha_kc relu(Y_c g_kc) = Y_c relu(w_kc) / (2 + w_kc mean(A_k)).

tf-keras-vis, and most code that is in use, divides the alphas of a channel by their sum over the positions first.
They become 1 / n each, whatever they were, and the weight becomes `Y_c relu(w_kc) / n`. `Y_c` and `n` scale a
whole map and vanish when it is normalised for display: the map is `relu(sum_k relu(w_kc) A_k)`, a 1x1
convolution.

The same goes for Grad-CAM (Selvaraju et al. 2017): the mean of its gradients is `w_kc / n`, so that its map is,
up to `n`, that of CAM (Zhou et al. 2016) after a relu, `relu(sum_k w_kc A_k)`.
"""

import keras
import numpy as np
from keras import ops

METHODS = ("gradcam++", "gradcam++_paper", "cam")


def attention_maps(features, kernel, method: str = "gradcam++"):
    """Computes class activation maps from the last feature map and the dense layer's kernel.

    With `w` the kernel and `A` the features, the module's description deriving the first two:

    - `gradcam++`: `relu(sum_k relu(w_kc) A_k)`, Grad-CAM++ with alphas normalised over the positions;
    - `gradcam++_paper`: `relu(sum_k relu(w_kc) / (2 + w_kc mean(A_k)) A_k)`, Grad-CAM++ as printed, up to a factor
      per map. Only channels with a weight above 0 count, and for them the denominator is at least 2 where the
      trunk ends in a relu; EfficientNet's swish goes down to -0.28, and there only a weight above 7 could make it
      vanish;
    - `cam`: `relu(sum_k w_kc A_k)`, CAM and Grad-CAM. It alone knows channels that speak against a label.

    For example, features `[[1, 0], [0, 2]]` of two positions and two channels and a kernel `[1, -1]` give
    `gradcam++` `[1, 0]` and `cam` `[1, 0]`; the kernel `[1, 1]` gives `[1, 2]` in both.

    Args:
        features: `(B, h, w, K)` float, what the global average pooling reads.
        kernel: `(K, C)` float, of the dense layer that gives the logits.
        method: one of `METHODS`.

    Returns:
        `(B, h, w, C)`, the features' dtype: not negative, not normalised; see `normalised`.

    Raises:
        ValueError: for an unknown method.
    """
    if method == "cam":
        return ops.relu(ops.matmul(features, kernel))
    if method == "gradcam++":
        return ops.relu(ops.matmul(features, ops.relu(kernel)))
    if method == "gradcam++_paper":
        means = ops.mean(features, axis=(1, 2))[:, :, None]  # (B, K, 1)
        positive = ops.relu(kernel)
        weights = positive / (2.0 + positive * means)  # (B, K, C)
        return ops.relu(ops.einsum("bhwk,bkc->bhwc", features, weights))
    raise ValueError(f"method should be one of {', '.join(METHODS)}. Received: {method!r}")


@keras.saving.register_keras_serializable(package="ladnn_tf")
class AttentionMaps(keras.layers.Layer):
    """`attention_maps` as a layer: features `(B, h, w, K)` to maps `(B, h, w, labels)` float32, not negative.

    It keeps a copy of the dense layers' kernel as a weight of its own, which is not trained. It is put on a
    finished model, whose kernel no longer changes.

    Args:
        labels: number of labels C.
        method: one of `METHODS`.

    Raises:
        ValueError: for an unknown method.
    """

    def __init__(self, labels: int, method: str = "gradcam++", **kwargs):
        if method not in METHODS:
            raise ValueError(f"method should be one of {', '.join(METHODS)}. Received: {method!r}")
        super().__init__(**{"dtype": "float32", **kwargs})
        self.labels = labels
        self.method = method

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.labels), initializer="zeros", trainable=False
        )

    def call(self, features):
        return attention_maps(features, self.kernel, self.method)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.labels)

    def get_config(self):
        return {**super().get_config(), "labels": self.labels, "method": self.method}


def attention_model(model: keras.Model, method: str = "gradcam++") -> keras.Model:
    """The same network (same layers, same weights) with the attention maps as a further output.

    Args:
        model: finished, from `ladnn.build_model` or loaded from a run.
        method: one of `METHODS`.

    Returns:
        A model from images `(B, S, S, 3)` in [0, 255] to logits `{"covid": (B, 1), "lesions": (B, 5)}` and
        `"attention"`, `(B, h, w, 6)` float32 raw maps in the order of `covid` and `labels.LESIONS`; the baseline
        has neither lesions nor their maps.

    Raises:
        ValueError: for an unknown method, or a model with classes.
    """
    if "classes" in model.output:
        raise ValueError(
            "attention maps are LA-DNN's; what a model with classes looked at, DRENet's boxes show (python -m "
            "ladnn_tf.predict --run=... --series=... --out=FOLDER)"
        )
    dense = {head: model.get_layer(f"{head}_logits") for head in model.output}
    kernel = np.concatenate([ops.convert_to_numpy(layer.kernel) for layer in dense.values()], axis=1)
    layer = AttentionMaps(kernel.shape[1], method, name="attention")
    maps = layer(model.get_layer("features").input)
    layer.kernel.assign(kernel)
    outputs = {head: layer.output for head, layer in dense.items()}
    return keras.Model(model.input, {**outputs, "attention": maps}, name=f"{model.name}_attention")


def normalised(maps: np.ndarray) -> np.ndarray:
    """Stretches each map to [0, 1] by its own minimum and maximum, for display and comparison.

    Args:
        maps: `(..., h, w, C)` raw maps.

    Returns:
        The same shape; a map without differences becomes 0 throughout.
    """
    low = maps.min(axis=(-3, -2), keepdims=True)
    span = maps.max(axis=(-3, -2), keepdims=True) - low
    return (maps - low) / np.where(span > 0, span, 1)
