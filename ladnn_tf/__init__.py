"""LA-DNN in TensorFlow 2 and Keras 3: COVID-19 and five lesions from a chest-CT slice."""
