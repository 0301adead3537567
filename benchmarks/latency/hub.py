"""Networks and chips of Qualcomm AI Hub's published measurements.

The hub exports networks of torchvision and timm; here is which timm network has the same layers.
Left out are networks without such a definition, and Sequencer2D, whose LSTMs the hub unrolls into
thousands of operators.
"""

from __future__ import annotations

NETWORKS = {
    "beit": "beit_base_patch16_224",
    "convnext_base": "convnext_base",
    "convnext_v2_base": "convnextv2_base",
    "densenet121": "densenet121",
    "dla102x": "dla102x",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b4": "efficientnet_b4",
    "efficientnet_lite4": "tf_efficientnet_lite4",
    "efficientnet_v2_s": "tf_efficientnetv2_s",
    "efficientvit_l2_cls": "efficientvit_l2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "mnasnet05": "mnasnet_050",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "nasnet": "nasnetalarge",
    "regnet": "regnetx_032",
    "regnet_y_800mf": "regnety_008",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "swin_base": "swin_base_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swinv2_base": "swinv2_base_window8_256",
    "vit": "vit_base_patch16_224",
    "wideresnet50": "wide_resnet50_2",
}
"""timm's name by the hub's."""

SIZES = {
    "efficientnet_b4": "380x380x3",
    "efficientnet_lite4": "300x300x3",
    "efficientnet_v2_s": "384x384x3",
    "inception_v4": "299x299x3",
    "swinv2_base": "256x256x3",
}
"""Inputs other than 224x224x3; the rows of some networks name their axes in another order."""

FAMILIES = {
    "convnext_base": "convnext",
    "convnext_v2_base": "convnext",
    "efficientnet_b0": "efficientnet",
    "efficientnet_b4": "efficientnet",
    "efficientnet_lite4": "efficientnet",
    "efficientnet_v2_s": "efficientnet",
    "inception_v3": "inception",
    "inception_v4": "inception",
    "mobilenet_v3_large": "mobilenet_v3",
    "mobilenet_v3_small": "mobilenet_v3",
    "regnet": "regnet",
    "regnet_y_800mf": "regnet",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "wideresnet50": "resnet",
    "resnext50": "resnext",
    "resnext101": "resnext",
    "swin_base": "swin",
    "swin_small": "swin",
    "swinv2_base": "swin",
    "vit": "vit",
    "beit": "vit",
}
"""Networks that leave a fold together; the others are families of their own."""

CHIPS = {"QCS8550 (Proxy)": "Hexagon HTP v73", "Samsung Galaxy S24": "Hexagon HTP v75"}
"""NPUs that targets name; QCS8550 stands for the Snapdragon 8 Gen 2 (quic/ai-hub-models,
devices_and_chipsets.yaml)."""


def key_of(name: str) -> str | None:
    """``timm_name@HxWxC`` of a network of the hub; None where no definition is known."""
    timm = NETWORKS.get(name)
    return None if timm is None else f"{timm}@{SIZES.get(name, '224x224x3')}"
