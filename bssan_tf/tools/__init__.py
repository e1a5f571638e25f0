"""Ground for all rooms: files, boxes, devices, and the seams to TensorFlow and its addons."""
