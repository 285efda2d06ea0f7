"""Registered data sets: names that stand for a Hub data set with its columns, splits and customs. Import-light."""

from __future__ import annotations

from dataclasses import dataclass

from distillkit.settings import DSA

DSA_NO_FLIP = "color_crop_cutout_scale_rotate"  # for characters: a mirrored digit is another one, or none


@dataclass(frozen=True)
class KnownDataset:
    """A registered data set. ``hub_id`` None: embedded. ``class_indices``: this subset of the labels, in this order."""

    name: str
    title: str
    hub_id: str | None
    config_name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_size: int | None = None
    augmentation: str = DSA
    class_indices: tuple[int, ...] | None = None
    license: str | None = None
    citation: str = ""
    gated: bool = False
    num_classes: int | None = 10

    @property
    def embedded_as(self) -> str:
        """What the source of an embedded data set is called in an artifact."""
        return f"scikit-learn: {self.name}"


_DIGITS_BIB = """@misc{alpaydin1998digits,
  title        = {Optical Recognition of Handwritten Digits},
  author       = {Alpaydin, Ethem and Kaynak, Cenk},
  year         = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi          = {10.24432/C50P49}
}"""
_CIFAR_BIB = """@techreport{krizhevsky2009learning,
  title       = {Learning Multiple Layers of Features from Tiny Images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}"""
_TINY_BIB = """@techreport{le2015tiny,
  title       = {Tiny ImageNet Visual Recognition Challenge},
  author      = {Le, Ya and Yang, Xuan},
  institution = {Stanford University, CS 231N},
  year        = {2015}
}"""
_MNIST_BIB = """@article{lecun1998gradient,
  title   = {Gradient-Based Learning Applied to Document Recognition},
  author  = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume  = {86},
  number  = {11},
  pages   = {2278--2324},
  year    = {1998}
}"""
_FASHION_BIB = """@misc{xiao2017fashion,
  title  = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  year   = {2017},
  note   = {arXiv:1708.07747}
}"""
_SVHN_BIB = """@inproceedings{netzer2011reading,
  title     = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  author    = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and Wu, Bo and Ng, Andrew Y.},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning},
  year      = {2011}
}"""
_IMAGENET_BIB = """@article{russakovsky2015imagenet,
  title   = {ImageNet Large Scale Visual Recognition Challenge},
  author  = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and others},
  journal = {International Journal of Computer Vision},
  volume  = {115},
  number  = {3},
  pages   = {211--252},
  year    = {2015}
}"""


def _imagenet(name: str, title: str, indices: tuple[int, ...]) -> KnownDataset:
    return KnownDataset(
        f"imagenet-{name}",
        f"{title}: 10 ImageNet-1K classes at 128 pixels",
        "ILSVRC/imagenet-1k",
        image_column="image",
        label_column="label",
        test_split="validation",
        image_size=128,
        class_indices=indices,
        citation=_IMAGENET_BIB,
        gated=True,
    )


_ALL = (
    KnownDataset(
        "digits",
        "1,797 handwritten digits of 8x8 pixels (scikit-learn, embedded)",
        None,
        image_size=8,
        augmentation=DSA_NO_FLIP,
        license="cc-by-4.0",
        citation=_DIGITS_BIB,
    ),
    KnownDataset(
        "cifar10",
        "CIFAR-10, 32x32",
        "uoft-cs/cifar10",
        "plain_text",
        "img",
        "label",
        image_size=32,
        citation=_CIFAR_BIB,
    ),
    KnownDataset(
        "cifar100",
        "CIFAR-100, 32x32",
        "uoft-cs/cifar100",
        "cifar100",
        "img",
        "fine_label",
        image_size=32,
        citation=_CIFAR_BIB,
        num_classes=100,
    ),
    KnownDataset(
        "tiny-imagenet",
        "Tiny ImageNet, 200 classes, 64x64",
        "zh-plus/tiny-imagenet",
        image_column="image",
        label_column="label",
        test_split="valid",
        image_size=64,
        citation=_TINY_BIB,
        num_classes=200,
    ),
    KnownDataset(
        "mnist",
        "MNIST digits, 28x28",
        "ylecun/mnist",
        "mnist",
        "image",
        "label",
        image_size=28,
        citation=_MNIST_BIB,
        augmentation=DSA_NO_FLIP,
    ),
    KnownDataset(
        "fashion-mnist",
        "Fashion-MNIST, 28x28",
        "zalando-datasets/fashion_mnist",
        "fashion_mnist",
        "image",
        "label",
        image_size=28,
        license="mit",
        citation=_FASHION_BIB,
    ),
    KnownDataset(
        "svhn",
        "Street View House Numbers, cropped, 32x32",
        "ufldl-stanford/svhn",
        "cropped_digits",
        "image",
        "label",
        image_size=32,
        citation=_SVHN_BIB,
        augmentation=DSA_NO_FLIP,
    ),
    # class indices: mtt-distillation@50dccea utils.py
    _imagenet("nette", "ImageNette", (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)),
    _imagenet("woof", "ImageWoof", (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)),
    _imagenet("meow", "ImageMeow", (281, 282, 283, 284, 285, 291, 292, 290, 289, 287)),
    _imagenet("squawk", "ImageSquawk", (84, 130, 88, 144, 145, 22, 96, 9, 100, 89)),
    _imagenet("fruit", "ImageFruit", (953, 954, 949, 950, 951, 957, 952, 945, 943, 948)),
    _imagenet("yellow", "ImageYellow", (309, 986, 954, 951, 987, 779, 599, 291, 72, 11)),
)
DATASETS = {known.name: known for known in _ALL}
