"""Writes weights files as the publishers of ImageNet weights do, with random weights and without a download."""

import h5py
import keras
import numpy as np

APPLICATIONS = keras.applications
PREPROCESS = {
    "vgg16": APPLICATIONS.vgg16.preprocess_input,
    "resnet50": APPLICATIONS.resnet.preprocess_input,
    "densenet121": APPLICATIONS.densenet.preprocess_input,
    "densenet169": APPLICATIONS.densenet.preprocess_input,
    "efficientnet_b0": APPLICATIONS.efficientnet.preprocess_input,
    "efficientnet_b1": APPLICATIONS.efficientnet.preprocess_input,
}
"""The six of Keras Applications, each with its publisher's own preprocessing of RGB in [0, 255]."""

# As in the published EfficientNet files: the standard deviation stands where the variance should.
PIXEL_MEAN, PIXEL_VARIANCE = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def shake(model, seed=1):
    """Random statistics and biases: freshly built ones are 0 and 1 and would hide a layer that was not loaded."""
    rng = np.random.default_rng(seed)
    ranges = {"moving_variance": (0.7, 1.4), "gamma": (0.7, 1.4)} | dict.fromkeys(
        ("moving_mean", "beta", "bias"), (-0.3, 0.3)
    )
    for variable in model.variables:
        kind = variable.path.rsplit("/", 1)[-1]
        if kind in ranges:
            variable.assign(rng.uniform(*ranges[kind], variable.shape))


def adapt(model, mean=PIXEL_MEAN, variance=PIXEL_VARIANCE):
    """Sets the statistics of EfficientNet's own Normalization; other models have none."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign(np.broadcast_to(np.float32(mean), 3))
            layer.adapt_variance.assign(np.broadcast_to(np.float32(variance), 3))
            layer.finalize_state()


def write_older_layout(path, model, group=None):
    """The layout in which Keras Applications and the package efficientnet publish (Keras 1 and 2)."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        names = [_published_name(model, layer.name) for layer in model.layers]
        _write_names(root, "layer_names", names)
        for name, layer in zip(names, model.layers, strict=True):
            members = [_published_variable(model, name, layer, variable) for variable in layer.weights]
            place = root.create_group(name)
            _write_names(place, "weight_names", members)
            for member, variable in zip(members, layer.weights, strict=True):
                place[member] = np.asarray(variable)


def _write_names(group, attribute, names):
    """Split in parts, as Keras splits what is longer than an HDF5 header."""
    encoded = np.array([name.encode() for name in names]) if names else np.array([], "S1")
    if len(names) < 300:
        group.attrs[attribute] = encoded
    else:
        for part, some in enumerate(np.array_split(encoded, 2)):
            group.attrs[f"{attribute}{part}"] = some


def _published_name(model, name):
    return name.replace("conv1_", "conv1/", 1) if model.name.startswith("densenet") else name


def _published_variable(model, name, layer, variable):
    if model.name == "vgg16":
        return f"{name}_{'W' if variable.name == 'kernel' else 'b'}_1:0"
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return f"{name}/{'depthwise_kernel' if depthwise else variable.name}:0"


def without_names(source, target):
    """A `.weights.h5` as Keras wrote it before it stored the names of layers."""
    with h5py.File(source, "r") as file, h5py.File(target, "w") as stripped:
        for key, layer in file["layers"].items():
            for place, array in layer["vars"].items():
                stripped[f"layers/{key}/vars/{place}"] = np.asarray(array)


def with_classifier(name, build, size):
    """The publisher's model with its top, and the same cut off before it."""
    if name == "vgg16":  # its own dense layers of 4096 would be 100 MB; these have its names
        trunk = build(include_top=False, weights=None, input_shape=(size, size, 3))
        x = keras.layers.Flatten(name="flatten")(trunk.output)
        for layer, width in (("fc1", 8), ("fc2", 8), ("predictions", 10)):
            x = keras.layers.Dense(width, name=layer)(x)
        return keras.Model(trunk.input, x, name=name), trunk
    model = build(include_top=True, weights=None, classes=10, input_shape=(size, size, 3))
    last = [x for x in model.layers if isinstance(x, keras.layers.GlobalAveragePooling2D)][-1]
    return model, keras.Model(model.input, last.input, name=model.name)


def resnet18_of_keras_hub():
    """As keras-hub builds `resnet_18_imagenet` (its utils/timm/convert_resnet.py)."""
    import keras_hub

    return keras_hub.models.ResNetBackbone(
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        use_pre_activation=False,
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
    )
