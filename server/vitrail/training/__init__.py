"""From a folder of photos to a better embedder, and to figures that say how good it is: data, training, evaluation."""
