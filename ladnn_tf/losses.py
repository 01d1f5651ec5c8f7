"""The losses of LA-DNN (diagnosis, lesions that are known) and of DRENet (classes, regions, their ranking)."""

import keras
from keras import ops

from ladnn_tf.labels import COVID, LESIONS

# Per image, over both heads; the baseline has one output and its plain cross entropy.
_OUTPUTS = 1 + len(LESIONS)


def covid_loss(labels, logits):
    """Binary cross entropy of the diagnosis.

    Args:
        labels: `(B, 1)` float, 1 or 0.
        logits: `(B, 1)` float32.

    Returns:
        `(B,)` float32, in nats.
    """
    return ops.sum(_cross_entropy(labels, logits), axis=-1)


def lesion_loss(labels, logits):
    """Sum of the binary cross entropies of the lesions that are known.

    Args:
        labels: `(B, 5)` float, 1, 0, or negative for unknown.
        logits: `(B, 5)` float32.

    Returns:
        `(B,)` float32, in nats; 0 where no lesion is known.
    """
    known = labels >= 0
    entropies = _cross_entropy(ops.where(known, labels, 0.0), logits)
    return ops.sum(ops.where(known, entropies, 0.0), axis=-1)


def class_loss(labels, logits):
    """Cross entropy of the classes.

    Args:
        labels: `(B, C)` float, one-hot.
        logits: `(B, C)` float32.

    Returns:
        `(B,)` float32, in nats.
    """
    return ops.categorical_crossentropy(ops.cast(labels, logits.dtype), logits, from_logits=True)


def covid_against_rest(logits):
    """The logit of COVID-19 against all other classes: `(B, C)` logits, COVID-19 first, to `(B, 1)`.

    Its sigmoid is the first probability of the softmax. For example logits 0, 0, 0 give -ln 2.
    """
    return logits[:, :1] - ops.logsumexp(logits[:, 1:], axis=-1, keepdims=True)


def ranking_loss(scores, losses):
    """How far the order of DRENet's regions is from the order of what they are worth.

    The sum of `relu(1 - s_i + s_j)` over all pairs of regions in which j has the higher loss than i: the region
    that tells more should have a score that is higher by 1.

    Args:
        scores: `(B, K)` float32.
        losses: `(B, K)` float32 of the regions' own classification; no gradient flows through them.

    Returns:
        `(B,)` float32.
    """
    losses = ops.stop_gradient(losses)
    worse = losses[:, None, :] > losses[:, :, None]
    return ops.sum(ops.where(worse, ops.relu(1.0 - scores[:, :, None] + scores[:, None, :]), 0.0), axis=(1, 2))


def region_loss(labels, regions):
    """Mean cross entropy of DRENet's regions, and the ranking of their scores.

    Args:
        labels: `(B, C)` float, one-hot: a region's class is its image's.
        regions: `(B, K, 1 + C)` float32: each region's score, then its logits.

    Returns:
        `(B,)` float32.
    """
    scores, logits = regions[..., 0], regions[..., 1:]
    of_regions = ops.cast(labels, logits.dtype)[:, None] * ops.ones_like(logits[..., :1])
    entropies = ops.categorical_crossentropy(of_regions, logits, from_logits=True)
    return ops.mean(entropies, axis=-1) + ranking_loss(scores, entropies)


def head_losses(task_heads):
    """The loss function of each head, for `Model.compile(loss=...)`."""
    functions = {
        COVID: covid_loss,
        "lesions": lesion_loss,
        "classes": class_loss,
        "image": class_loss,
        "regions": region_loss,
    }
    return {head: functions[head] for head in task_heads}


def head_weights(task_heads, covid_weight=5.0):
    """The weight of each head, for `Model.compile(loss_weights=...)`.

    Per image the loss is `(covid_weight x BCE(covid) + sum over known lesions of BCE) / 6`; masked terms stay in
    the denominator, which is the number of outputs (the authors' public code; the paper gives no formula). With
    the COVID head alone it is its plain cross entropy. With classes it is the sum over the heads, as DRENet's.

    Args:
        task_heads: names of the model's outputs.
        covid_weight: how many times the diagnosis counts.
    """
    if "lesions" not in task_heads:
        return dict.fromkeys(task_heads, 1.0)
    return {COVID: covid_weight / _OUTPUTS, "lesions": 1.0 / _OUTPUTS}


def per_image_loss(labels, logits, covid_weight=5.0):
    """The whole loss of each image, without weight decay.

    Example: covid 1 with logit 0, one known lesion 1 with logit 0, four unknown: (5 ln 2 + ln 2) / 6 = 0.693.

    Args:
        labels: `{"covid": (B, 1), "lesions": (B, 5)}`, or those of DRENet's heads, as the functions above take
            them.
        logits: the model's outputs; without `lesions` for the baseline.
        covid_weight: how many times the diagnosis counts.

    Returns:
        `(B,)` float32, in nats; the training loss is its mean.
    """
    weights, functions = head_weights(logits, covid_weight), head_losses(logits)
    return sum(weights[head] * functions[head](labels[head], logits[head]) for head in logits)


def _cross_entropy(labels, logits):
    return ops.binary_crossentropy(ops.cast(labels, logits.dtype), logits, from_logits=True)


def add_l2_decay(model: keras.Model, weight_decay: float) -> None:
    """Adds 0.5 x weight_decay x sum of squares of every trainable weight to the loss.

    That is the decay of PyTorch's `Adam(weight_decay=)`, which adds weight_decay x weight to the gradient of all
    parameters, biases and batch-norm scales included. Keras' own `weight_decay=` is decoupled (AdamW).

    Args:
        model: a built model; nothing of this is saved with it.
        weight_decay: per weight, for example 5e-4.
    """
    regularizer = keras.regularizers.L2(0.5 * weight_decay)
    for variable in model.trainable_variables:
        variable.regularizer = regularizer
