"""Calibration and evaluation data: images from folders, zips and npz files, or raw tensors.

- `edgec.export.datasets.images.open_images` → `ImageSet`
- `edgec.export.datasets.tensors.open_tensors` → `TensorSet`
"""
