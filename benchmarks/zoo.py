"""The networks that pruning is asked to manage: 80 of torchvision 0.28, 60 families of timm 1.0.31.

Of timm the smallest sensible member of a family stands for it. Weights are drawn, never fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

CLASSES = 1000
_SEED = 0
_CALIBRATION_BATCH = 4


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the zoo.

    Attributes:
        name: as its package calls it.
        package: "torchvision" or "timm".
        size: height and width of its input, in pixels; it has 3 channels.
    """

    name: str
    package: str
    size: int = 224

    @property
    def key(self) -> str:
        """Unique in the zoo: both packages have a densenet121."""
        return f"{self.package}/{self.name}"


# In the order of torchvision.models.list_models(module=torchvision.models).
_TORCHVISION = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121",
    "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf",
    "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18",
    "resnet34", "resnet50", "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s",
    "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2",
    "wide_resnet50_2",
)  # fmt: skip
# One a family.
_TIMM = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convnextv2_atto",
    "crossvit_tiny_240", "cspresnet50", "davit_tiny", "deit_tiny_distilled_patch16_224", "dla46_c",
    "dpn48b", "eca_nfnet_l0", "ecaresnet26t", "edgenext_xx_small", "efficientformer_l1",
    "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim_dw", "eva02_tiny_patch14_224",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050", "gmlp_ti16_224",
    "halonet26t", "hiera_tiny_224", "hrnet_w18_small", "inception_next_atto", "lambda_resnet26t",
    "levit_128s", "mambaout_femto", "maxvit_nano_rw_256", "mixer_s32_224", "mobileone_s0",
    "mobilevit_xxs", "mvitv2_tiny", "nest_tiny", "nextvit_small", "poolformer_s12", "pvt_v2_b0",
    "rdnet_tiny", "repghostnet_050", "repvit_m0_9", "res2net50_14w_8s", "resmlp_12_224",
    "resnest14d", "rexnet_100", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050",
    "swiftformer_xs", "swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "tnt_s_patch16_224",
    "twins_svt_small", "visformer_tiny", "vit_tiny_patch16_224", "volo_d1_224",
    "xcit_nano_12_p16_224",
)  # fmt: skip
# Sizes other than 224: what the package itself says of the network.
_SIZES = {
    "inception_v3": 299, "swin_v2_b": 256, "swin_v2_s": 256, "swin_v2_t": 256,
    "crossvit_tiny_240": 240, "cspresnet50": 256, "ecaresnet26t": 256, "edgenext_xx_small": 256,
    "fastvit_t8": 256, "halonet26t": 256, "lambda_resnet26t": 256, "maxvit_nano_rw_256": 256,
    "mobilevit_xxs": 256,
}  # fmt: skip

TORCHVISION = tuple(Network(x, "torchvision", _SIZES.get(x, 224)) for x in _TORCHVISION)
TIMM = tuple(Network(x, "timm", _SIZES.get(x, 224)) for x in _TIMM)
NETWORKS = (*TORCHVISION, *TIMM)

_SAMPLE = (
    "coat_tiny", "dla46_c", "edgenext_xx_small", "efficientvit_b0", "fastvit_t8", "ghostnet_050",
    "gmlp_ti16_224", "levit_128s", "resnest14d", "skresnet18", "swin_tiny_patch4_window7_224",
    "xcit_nano_12_p16_224",
)  # fmt: skip
SAMPLE = tuple(network for network in TIMM if network.name in _SAMPLE)
"""Twelve families that between them have most of what is hard; they run in the tests."""

# Their weights take more than a gigabyte: each is asked with the machine to itself.
HUGE = tuple(
    network
    for network in TORCHVISION
    if network.name in {"regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"}
)


def named(key: str) -> Network:
    """The network of a `key`."""
    return next(network for network in NETWORKS if network.key == key)


def build(network: Network) -> nn.Module:
    """The network in evaluation mode, the same at every call; see `packages.on_path`.

    Its norms, layer scales, biases and tokens have values like those of a trained network. As
    initialised, many are 0, 1 or 1e-6 throughout: whole branches would be silent, and a wrong cut
    in them would go unseen.
    """
    import torch

    torch.manual_seed(_SEED)
    module = _initialised(network).eval()
    _spread_constants(module)
    _calibrate(module, torch.randn(_CALIBRATION_BATCH, 3, network.size, network.size))
    return module


def _initialised(network: Network) -> nn.Module:
    if network.package == "timm":
        import timm

        made: nn.Module = timm.create_model(network.name, pretrained=False, num_classes=CLASSES)
        return made
    from torchvision.models import get_model

    return get_model(network.name, weights=None)  # type: ignore[no-any-return]  # untyped package


def _spread_constants(module: nn.Module) -> None:
    """Give every parameter that has one value throughout many values around it."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            least, most = (float(end) for end in parameter.aminmax())
            if least != most:
                continue
            if least == 0:  # biases, tokens, position tables, gains of silent branches
                parameter.normal_(0, 0.05)
            elif least >= 0.5:  # norms
                parameter.uniform_(0.5, 1.5)
            else:  # layer scales
                parameter.uniform_(0.1, 0.5)


def _calibrate(module: nn.Module, images: object) -> None:
    """Running statistics of the batch norms from one batch, as training would leave them."""
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
